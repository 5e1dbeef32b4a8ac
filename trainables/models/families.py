"""Families of encoder architectures: what differs between them in loading, pooling and computing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers

from trainables.heads.base import Pooling
from trainables.hyperparameters import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """The properties of an architecture in transformers.

    Attributes:
        body: name of the class with only the encoder; `AutoModel` gives mT5's whole encoder-decoder.
        pooling: what heads over whole rows read, unless a checkpoint's card says otherwise.
        pooler: the class adds an unused pooling layer by default.
        fused_attention: it supports PyTorch's fused kernels (`_supports_sdpa` of the class, transformers 5.23).
        attention_bias: it adds scores for each pair of tokens, which fused kernels are given and each layer keeps.
        mask_token: its tokenizer has one.
        needs_padding: why its rows cannot be computed without padding (`unpadding`), None if they can.
        positions_after_padding: position ids start after the id of padding.
        second_segment: tokens after the first separator are marked as the second text of a pair, unless a checkpoint's card
            says otherwise.
    """

    body: str
    pooling: Pooling
    pooler: bool = True
    fused_attention: bool = True
    attention_bias: bool = False
    mask_token: bool = True
    needs_padding: str | None = None
    positions_after_padding: bool = False
    second_segment: bool = False

    @property
    def model_class(self) -> type[PreTrainedModel]:
        model_class: type[PreTrainedModel] = getattr(transformers, self.body)
        return model_class

    @property
    def options(self) -> dict[str, bool]:
        """Arguments of the class besides its configuration: no pooling layer, as no head reads it."""
        return {"add_pooling_layer": False} if self.pooler else {}

    def separator(self, config: PreTrainedConfig) -> int | None:
        """The token that ends the first text, None where the second one is not marked.

        `import_encoder` writes into the configuration whether the checkpoint marks it; earlier versions left it to the family.
        A checkpoint that no stage imported may not say which token separates texts: then nothing is marked.
        """
        marks = getattr(config, "second_segment", self.second_segment)
        return getattr(config, "sep_token_id", None) if marks else None

    def attention(self, device: torch.device) -> str:
        """Fused attention on GPUs. Plain on CPUs, where the backward pass of PyTorch's kernel took half of a whole step.

        For a GPU it also leaves cuDNN's kernels out for this process. PyTorch prefers them on Hopper and Blackwell, where their
        backward pass gives NaN for padded rows of some lengths (pytorch#196678), and they are planned anew for each shape, of
        which batches of texts have many.
        """
        if device.type != "cuda" or not self.fused_attention:
            return "eager"
        torch.backends.cuda.enable_cudnn_sdp(False)
        return "sdpa"


# The costs are those of the lengths in `tests/benchmarks/row_lengths.json` in length-bucketed batches of 32 rows (of 128: 16%
# and 31%). PyTorch's flex attention takes such biases and segments, but has no dropout, with which both families are trained.
_BETWEEN_TOKENS = (
    "its attention adds {} for the distance of two tokens, which kernels over unpadded rows do not support with dropout; "
    "padding is 12% of the tokens of a batch of 32 XNLI pairs, and 26% of UDPOS sentences"
)

# Pooling is the first token where pre-training or the published fine-tuning read it: `<s>` and `[CLS]`, in XTREME's scripts
# too. It is the mean of all tokens for mT5, whose rows begin with their text, and for mmBERT, where two layers in three attend
# to 64 tokens on either side, so the first token sees less of a long row than others do (ModernBertConfig's
# `classifier_pooling`). BERT was pre-trained with the second text of a pair marked, and XTREME's scripts mark it
# (google-research/xtreme, third_party/run_classify.py: `token_type_ids` for model type bert only). RoBERTa and its successors
# have no second segment; neither has DistilBERT, whose pre-training dropped it (Sanh et al. 2019, section 3).
FAMILIES = {
    "xlm-roberta": Family("XLMRobertaModel", "first", positions_after_padding=True),
    "xlm-roberta-xl": Family("XLMRobertaXLModel", "first", positions_after_padding=True),
    "bert": Family("BertModel", "first", second_segment=True),
    "distilbert": Family("DistilBertModel", "first", pooler=False),
    "deberta-v2": Family(
        *("DebertaV2Model", "first"),
        pooler=False,
        fused_attention=False,
        needs_padding=_BETWEEN_TOKENS.format("learned scores"),
    ),
    "mt5": Family(
        *("MT5EncoderModel", "mean"),
        pooler=False,
        attention_bias=True,
        mask_token=False,
        needs_padding=_BETWEEN_TOKENS.format("a learned bias"),
    ),
    "modernbert": Family("ModernBertModel", "mean", pooler=False),
}


def first_layers(config: PreTrainedConfig, layers: int) -> None:
    """Shorten a configuration to its first layers; the norm after the last one, where the architecture has it, stays.

    Raises:
        ValueError: it has fewer layers, or none is kept.
    """
    if not 1 <= layers <= config.num_hidden_layers:
        raise ValueError(f"layers {layers}: the checkpoint has {config.num_hidden_layers}; keep from 1 to all of them")
    config.num_hidden_layers = layers
    if (kinds := getattr(config, "layer_types", None)) is not None:
        config.layer_types = kinds[:layers]  # ModernBERT: which layers attend globally


def why_padded(family: Family, device: str, precision: Precision) -> str | None:
    """Why training without padding is impossible or useless on a device, "cuda" or "cpu"; None where it is neither."""
    if (reason := family.needs_padding) is not None:
        return reason
    if device != "cuda":
        return "PyTorch's attention kernel for rows of different lengths needs a GPU"
    if precision == "fp32":
        return "PyTorch's attention kernel for rows of different lengths computes in bf16, and training is in fp32"
    return None
