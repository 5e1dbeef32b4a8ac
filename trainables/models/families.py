"""Families of encoder architectures: what has to be known of each to load it, pool it and count it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers

from trainables.heads.base import Pooling
from trainables.hyperparameters import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """What an architecture of transformers needs said.

    `body` names the class that is the encoder alone: `AutoModel` gives mT5's whole encoder-decoder. `pooling` is what heads
    over whole rows read. `pooler`: the class adds a pooling layer of its own unless told not to. `fused_attention`: it runs
    on PyTorch's fused kernels (`_supports_sdpa` of the class, transformers 5.23). `mask_token`: its tokenizer has one.
    `needs_padding`: why its rows cannot be computed without padding (`unpadding`), None if they can; then
    `positions_after_padding` says that it numbers positions from one behind that of padding on. `second_segment`: what stands
    behind the first separator is marked as the second of a pair.
    """

    body: str
    pooling: Pooling
    pooler: bool = True
    fused_attention: bool = True
    mask_token: bool = True
    needs_padding: str | None = None
    positions_after_padding: bool = False
    second_segment: bool = False

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


_BETWEEN_TOKENS = "its attention adds {} for the distance of two tokens, which kernels over unpadded rows do not take"

# The first token where pre-training or the published fine-tuning read it: `<s>` and `[CLS]`, in XTREME's scripts too. The mean
# of all tokens for mT5, whose rows begin with their text, and for mmBERT, where two layers in three see 64 tokens to either
# side, so that the first token has not seen a long row as often as the others have (ModernBertConfig's `classifier_pooling`).
# BERT was pre-trained with the second text of a pair marked, and XTREME's scripts mark it (google-research/xtreme,
# third_party/run_classify.py: `token_type_ids` for model type bert alone); RoBERTa and its heirs have no second segment.
FAMILIES = {
    "xlm-roberta": Family("XLMRobertaModel", "first", positions_after_padding=True),
    "xlm-roberta-xl": Family("XLMRobertaXLModel", "first", positions_after_padding=True),
    "bert": Family("BertModel", "first", second_segment=True),
    "deberta-v2": Family(
        *("DebertaV2Model", "first"),
        pooler=False,
        fused_attention=False,
        needs_padding=_BETWEEN_TOKENS.format("learned scores"),
    ),
    "mt5": Family(
        *("MT5EncoderModel", "mean"),
        pooler=False,
        mask_token=False,
        needs_padding=_BETWEEN_TOKENS.format("a learned bias"),
    ),
    "modernbert": Family("ModernBertModel", "mean", pooler=False),
}


def why_padded(family: Family, device: str, precision: Precision) -> str | None:
    """Why training without padding would be impossible, or pointless; None where it is neither.

    `device` is "cuda" or "cpu".
    """
    if (reason := family.needs_padding) is not None:
        return reason
    if device != "cuda":
        return "PyTorch's attention kernel for rows of different lengths is for GPUs"
    if precision != "bf16_mixed":
        return "PyTorch's attention kernel for rows of different lengths computes in bf16, and training is in fp32"
    return None
