"""Masked language modelling: the pieces under the masks, found among the whole vocabulary (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import TextExample
from trainables.heads.base import IGNORED, Feature, Head, HeadModule, Outputs, Pooling, pad_rows, special_frame
from trainables.tasks.base import Task


class TiedScores(nn.Module):
    """Scores of all pieces by the encoder's own input embedding.

    No `nn.Linear`: DeepSpeed's mixed precision sends what an `nn.Linear` holds to other workers in bf16, and this table is
    what the encoder looks its words up in.
    """

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, hidden_MD: Tensor) -> Tensor:
        return functional.linear(hidden_MD, self.weight)


class MaskedLmHead(HeadModule):
    """RoBERTa's head: a dense layer, GELU and a norm before the scores.

    It starts from random weights: the head that a published encoder was pre-trained with is not kept. RoBERTa's bias over the
    vocabulary is left out, for it costs one more copy of the scores; the norm's, read through the table, stands in for it.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def tie(self, table: nn.Embedding) -> None:
        self.out = TiedScores(table)

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """Scores of the whole vocabulary at every position it is given: any shape (..., D) to (..., V)."""
        return self.out(self._transformed(hidden_NLD))

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(
            logits.float().flatten(0, -2), targets["labels"].flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def training_loss(self, hidden_NLD: Tensor, mask_NL: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """From the scores of the masked positions alone: at all of them, a batch of 32 rows of 128 pieces out of 250,000
        has 4 GB of scores."""
        labels_NL = targets["labels"]
        chosen_NL = labels_NL != IGNORED
        scores_MV = self(hidden_NLD[chosen_NL], mask_NL[chosen_NL])
        return self.loss(scores_MV, {"labels": labels_NL[chosen_NL]})

    def idle(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """Without the scores: the table has its gradient from the encoder, which looked words up."""
        return self._transformed(hidden_NLD[:1, :1]).sum()

    def _transformed(self, hidden: Tensor) -> Tensor:
        return self.norm(functional.gelu(self.dense(hidden)))


class MaskedLanguageModelling(Head[TextExample]):
    """A feature is one row, not masked yet: each step masks it anew, and only then it has a target and a weight."""

    name = "masked_lm"
    masks: ClassVar[bool] = True

    def features(
        self, examples: Sequence[TextExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        """Long texts are split evenly: a last row of a few pieces would have nothing to guess them from."""
        texts = [example.text for example in examples]
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        before, after = special_frame(tokenizer)
        room = max_length - len(before) - len(after)
        found: list[Feature] = []
        for index, pieces in enumerate(encoded):
            count = -(-len(pieces) // room)  # none for a text of characters that the tokenizer drops
            for part in range(count):
                first, last = (len(pieces) * place // count for place in (part, part + 1))
                found.append(Feature(index, ((*before, *pieces[first:last], *after),), (), weight=0.0))
        return found

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return MaskedLmHead(hidden_size)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {"labels": pad_rows([feature.target for feature in features], IGNORED, padded_length)}

    def decode(self, outputs: Outputs[TextExample], task: Task) -> list[Any]:
        raise ValueError(f"{task.name} is trained and never scored: its text has no labels")

    def reference(self, example: TextExample, task: Task) -> None:
        return None
