"""Token tagging: the label sits on a word's first piece; long sentences are split between words, never cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import TaggingExample
from trainables.heads.base import IGNORED, Feature, Head, HeadModule, Outputs, Pooling, pad_rows, special_frame
from trainables.tasks.base import Task


class TaggingHead(HeadModule):
    def __init__(self, hidden_size: int, labels: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, labels)

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        return self.out(hidden_NLD)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(
            logits.float().flatten(0, 1), targets["labels"].flatten(), ignore_index=IGNORED, reduction="sum"
        )


class Tagging(Head[TaggingExample]):
    """A feature's layout is the index of its first word, then the position of the first piece of each of its words."""

    name = "tagging"

    def features(
        self, examples: Sequence[TaggingExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        encoded = tokenizer(
            [list(example.words) for example in examples], is_split_into_words=True, add_special_tokens=False
        )
        before, after = special_frame(tokenizer)
        room = max_length - len(before) - len(after)
        numbers = {label: number for number, label in enumerate(task.labels)}
        found: list[Feature] = []
        for index, example in enumerate(examples):
            pieces: list[list[int]] = [[] for _ in example.words]
            for piece, word in zip(encoded["input_ids"][index], encoded.word_ids(index), strict=True):
                pieces[word].append(piece)
            # A word of characters that the tokenizer drops stands there all the same.
            pieces = [one or [tokenizer.unk_token_id] for one in pieces]
            targets = [numbers[tag] for tag in example.tags]
            for first, last in windows([len(one) for one in pieces], room):
                row, target, starts = list(before), [IGNORED] * len(before), []
                for word in range(first, last):
                    fits = pieces[word][: room + len(before) - len(row)]  # shorter only for a word longer than a window
                    starts.append(len(row))
                    row += fits
                    target += [targets[word], *[IGNORED] * (len(fits) - 1)]
                row += after
                target += [IGNORED] * len(after)
                found.append(Feature(index, (tuple(row),), tuple(target), float(len(starts)), (first, *starts)))
        return found

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return TaggingHead(hidden_size, len(task.labels))

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {"labels": pad_rows([feature.target for feature in features], IGNORED, padded_length)}

    def decode(self, outputs: Outputs[TaggingExample], task: Task) -> list[Any]:
        labels, tags = task.labels, [["O"] * len(example.words) for example in outputs.examples]
        for feature, values in zip(outputs.features, outputs.logits, strict=True):
            first, *starts = feature.layout
            best = values[0].argmax(-1)
            for word, position in enumerate(starts, first):
                tags[feature.example][word] = labels[best[position]]
        return tags

    def reference(self, example: TaggingExample, task: Task) -> list[str]:
        return list(example.tags)


def windows(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Ranges of words, each of at most `room` pieces; a longer word stands alone."""
    found, first, used = [], 0, 0
    for word, length in enumerate(lengths):
        if used + length > room and word > first:
            found.append((first, word))
            first, used = word, 0
        used += length
    return [*found, (first, len(lengths))] if lengths else found
