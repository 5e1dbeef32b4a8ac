"""Families of encoder architectures: what has to be known of each to load it, pool it and count it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import transformers
from transformers import PreTrainedModel

from trainables.kinds.base import Pooling


@dataclass(frozen=True)
class Family:
    """What an architecture of transformers needs said.

    `body` names the class that is the encoder alone: `AutoModel` gives mT5's whole encoder-decoder. `pooling` is what heads
    over whole rows read. `pooler`: the class adds a pooling layer of its own unless told not to. `fused_attention`: it runs
    on PyTorch's fused kernels (`_supports_sdpa` of the class, transformers 5.23). `mask_token`: its tokenizer has one.
    """

    body: str
    pooling: Pooling
    pooler: bool = True
    fused_attention: bool = True
    mask_token: bool = True

    @property
    def model_class(self) -> type[PreTrainedModel]:
        found: type[PreTrainedModel] = getattr(transformers, self.body)
        return found

    @property
    def options(self) -> dict[str, bool]:
        """What the class takes beside its configuration: none of its own pooling layer, which no head reads."""
        return {"add_pooling_layer": False} if self.pooler else {}

    @property
    def attention(self) -> str:
        """Fused attention on GPUs, plain on CPUs, where the backward pass of PyTorch's kernel took half of a whole step."""
        return "sdpa" if self.fused_attention and torch.cuda.is_available() else "eager"


# The first token where pre-training or the published fine-tuning read it: `<s>` and `[CLS]`, in XTREME's scripts too. The mean
# of all tokens for mT5, whose rows begin with their text, and for mmBERT, where two layers in three see 64 tokens to either
# side, so that the first token has not seen a long row as often as the others have (ModernBertConfig's `classifier_pooling`).
# BERT's second segment is not marked: RoBERTa and its heirs have none, and `[SEP]` stands between the texts.
FAMILIES = {
    "xlm-roberta": Family("XLMRobertaModel", "first"),
    "xlm-roberta-xl": Family("XLMRobertaXLModel", "first"),
    "bert": Family("BertModel", "first"),
    "deberta-v2": Family("DebertaV2Model", "first", pooler=False, fused_attention=False),
    "mt5": Family("MT5EncoderModel", "mean", pooler=False, mask_token=False),
    "modernbert": Family("ModernBertModel", "mean", pooler=False),
}
