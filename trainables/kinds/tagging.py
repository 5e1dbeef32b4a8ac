"""Token tagging: the label sits on a word's first piece; long sentences are split between words, never cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.kinds.base import IGNORED, Feature, Head, Kind, pad_rows
from trainables.tasks.base import TaggingExample, Task


class TaggingHead(Head):
    def __init__(self, hidden_size: int, labels: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, labels)

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        return self.out(hidden_NLD)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(
            logits.float().flatten(0, 1), targets["labels"].flatten(), ignore_index=IGNORED, reduction="sum"
        )


class Tagging(Kind[TaggingExample]):
    """A feature's layout is (index of its first word, first piece of each of its words)."""

    name = "tagging"

    def features(
        self, example: TaggingExample, index: int, *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        pieces = tokenizer(list(example.words), is_split_into_words=True, add_special_tokens=False)
        lengths = [0] * len(example.words)
        for word in pieces.word_ids():
            lengths[word] += 1
        room = max_length - tokenizer.num_special_tokens_to_add()
        found: list[Feature] = []
        first = 0
        while first < len(example.words):
            last, used = first, 0
            while last < len(example.words) and (used + lengths[last] <= room or last == first):
                used += lengths[last]
                last += 1
            found.append(
                self._window(example, index, first, last, task=task, tokenizer=tokenizer, max_length=max_length)
            )
            first = last
        return found

    def _window(
        self,
        example: TaggingExample,
        index: int,
        first: int,
        last: int,
        *,
        task: Task,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
    ) -> Feature:
        words = list(example.words[first:last])
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
        starts: dict[int, int] = {}
        for position, word in enumerate(encoded.word_ids()):
            if word is not None:
                starts.setdefault(word, position)
        target = [IGNORED] * len(encoded["input_ids"])
        for word, position in starts.items():
            target[position] = task.labels.index(example.tags[first + word])
        # A word of unknown characters alone can have no piece: it keeps position 0 (the start token) for decoding.
        layout = (first, tuple(starts.get(word, 0) for word in range(len(words))))
        return Feature(index, (tuple(encoded["input_ids"]),), tuple(target), float(len(starts)), layout)

    def head(self, hidden_size: int, task: Task) -> Head:
        return TaggingHead(hidden_size, len(task.labels))

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {"labels": pad_rows([feature.target for feature in features], IGNORED, padded_length)}

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[TaggingExample], task: Task
    ) -> list[Any]:
        tags = [["O"] * len(example.words) for example in examples]
        for feature, values in zip(features, logits, strict=True):
            first, starts = feature.layout
            best = values[0].argmax(-1)
            for word, position in enumerate(starts):
                tags[feature.example][first + word] = task.labels[best[position]]
        return tags

    def reference(self, example: TaggingExample, task: Task) -> list[str]:
        return list(example.tags)
