"""Token tagging: the label is on a word's first token; long sentences are split between words, never truncated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import TaggingExample
from trainables.heads.base import (
    IGNORED,
    Feature,
    Head,
    HeadModule,
    Outputs,
    Pooling,
    pad_rows,
    probabilities,
    special_frame,
)
from trainables.tasks.base import Task


class TaggingModule(HeadModule):
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
    """A feature's layout is the index of its first word, then the position of the first token of each of its words."""

    name = "tagging"
    cascades = True

    def features(
        self, examples: Sequence[TaggingExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        encoded = tokenizer(
            [list(example.words) for example in examples], is_split_into_words=True, add_special_tokens=False
        )
        before, after = special_frame(tokenizer)
        capacity = max_length - len(before) - len(after)
        numbers = {label: number for number, label in enumerate(task.labels)}
        features: list[Feature] = []
        for index, example in enumerate(examples):
            words: list[list[int]] = [[] for _ in example.words]
            for token, word in zip(encoded["input_ids"][index], encoded.word_ids(index), strict=True):
                words[word].append(token)
            # A word whose characters the tokenizer drops still needs a position for its label.
            words = [tokens or [tokenizer.unk_token_id] for tokens in words]
            targets = [numbers[tag] for tag in example.tags]
            for first, last in windows([len(tokens) for tokens in words], capacity):
                row, target, starts = list(before), [IGNORED] * len(before), []
                for word in range(first, last):
                    fits = words[word][
                        : capacity + len(before) - len(row)
                    ]  # truncates only a word longer than a window
                    starts.append(len(row))
                    row += fits
                    target += [targets[word], *[IGNORED] * (len(fits) - 1)]
                row += after
                target += [IGNORED] * len(after)
                features.append(Feature(index, (tuple(row),), tuple(target), float(len(starts)), (first, *starts)))
        return features

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return TaggingModule(hidden_size, len(task.labels))

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

    def decisions(self, outputs: Outputs[TaggingExample], task: Task) -> list[Any]:
        """Every tag."""
        return [tag for tags in self.decode(outputs, task) for tag in tags]

    def confidence(self, outputs: Outputs[TaggingExample], task: Task) -> list[float]:
        """The mean probability of the words' tags."""
        by_sentence: list[list[float]] = [[] for _ in outputs.examples]
        for feature, values in zip(outputs.features, outputs.logits, strict=True):
            _, *starts = feature.layout
            by_sentence[feature.example] += probabilities(values[0][starts]).max(axis=-1).tolist()
        return [float(np.mean(words)) if words else 1.0 for words in by_sentence]

    def reference(self, example: TaggingExample, task: Task) -> list[str]:
        return list(example.tags)


def windows(lengths: Sequence[int], capacity: int) -> list[tuple[int, int]]:
    """Ranges of words, each of at most `capacity` tokens; a longer word gets a range of its own."""
    ranges, first, used = [], 0, 0
    for word, length in enumerate(lengths):
        if used + length > capacity and word > first:
            ranges.append((first, word))
            first, used = word, 0
        used += length
    return [*ranges, (first, len(lengths))] if lengths else ranges
