"""Masked language modelling: predict the masked tokens out of the whole vocabulary (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import TextExample
from trainables.heads.base import (
    IGNORED,
    Feature,
    Head,
    HeadModule,
    Outputs,
    Pooling,
    pad_rows,
    special_frame,
    supervised,
)
from trainables.tasks.base import Task


class TiedScores(nn.Module):
    """Scores of the whole vocabulary by the encoder's input embedding.

    Not an `nn.Linear`: DeepSpeed's mixed precision sends the weights of an `nn.Linear` to other workers in bf16, and this
    table is also the encoder's input embedding.
    """

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, hidden_MD: Tensor) -> Tensor:
        return functional.linear(hidden_MD, self.weight)


class MaskedLmModule(HeadModule):
    """RoBERTa's head: a dense layer, GELU and a norm before the scores.

    Its weights start random: the head of a published encoder's pre-training is not kept. RoBERTa's bias over the vocabulary is
    left out, because it costs another copy of the scores; the norm's bias, read through the table, replaces it.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def tie(self, table: nn.Embedding) -> None:
        self.out = TiedScores(table)

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """Scores of the whole vocabulary at every position: any shape (..., D) to (..., V)."""
        return self.out(self._transformed(hidden_NLD))

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(
            logits.float().flatten(0, -2), targets["labels"].flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def training_loss(self, hidden_NLD: Tensor, mask_NL: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Scores only the masked positions, which the targets name.

        Scores at every position of 32 rows of 128 tokens, with a vocabulary of 250,000, would take 4 GB.
        """
        masked_M = targets["masked"]
        scores_MV = self(hidden_NLD.flatten(0, 1)[masked_M], mask_NL.flatten()[masked_M])
        return self.loss(scores_MV, {"labels": targets["labels"].flatten()[masked_M]})

    def idle(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """Without the scores: the table gets its gradient through the encoder's lookups."""
        return self._transformed(hidden_NLD[:1, :1]).sum()

    def _transformed(self, hidden: Tensor) -> Tensor:
        return self.norm(functional.gelu(self.dense(hidden)))


class MaskedLanguageModelling(Head[TextExample]):
    """A feature is one unmasked row: each step draws its masks, and with them its target and weight."""

    name = "masked_lm"
    fills_rows = True
    masks: ClassVar[bool] = True

    def features(
        self, examples: Sequence[TextExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        """Long texts are split evenly: a short last row would have too little context to predict from."""
        texts = [example.text for example in examples]
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        before, after = special_frame(tokenizer)
        capacity = max_length - len(before) - len(after)
        features: list[Feature] = []
        for index, tokens in enumerate(encoded):
            count = -(-len(tokens) // capacity)  # 0 if the tokenizer drops every character of the text
            for part in range(count):
                first, last = (len(tokens) * edge // count for edge in (part, part + 1))
                features.append(Feature(index, ((*before, *tokens[first:last], *after),), (), weight=0.0))
        return features

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return MaskedLmModule(hidden_size)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        labels_NL = pad_rows([feature.target for feature in features], IGNORED, padded_length)
        return {"labels": labels_NL, "masked": supervised(labels_NL)}

    def decode(self, outputs: Outputs[TextExample], task: Task) -> list[Any]:
        raise ValueError(f"{task.name} is trained and never scored: its text has no labels")

    def reference(self, example: TextExample, task: Task) -> None:
        return None
