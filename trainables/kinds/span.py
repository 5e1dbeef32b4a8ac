"""Span extraction: start and end in the context; long contexts are read in overlapping windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.kinds.base import Feature, Head, Kind
from trainables.tasks.base import SpanExample, Task

STRIDE = 128  # pieces of overlap between windows (XTREME's doc_stride)
MAX_ANSWER_PIECES = 30
N_BEST = 20


class SpanHead(Head):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, 2)

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        logits_NL2 = self.out(hidden_NLD)
        return logits_NL2.masked_fill(mask_NL.unsqueeze(-1) == 0, torch.finfo(logits_NL2.dtype).min)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        starts = functional.cross_entropy(logits[..., 0].float(), targets["starts"], reduction="sum")
        return (starts + functional.cross_entropy(logits[..., 1].float(), targets["ends"], reduction="sum")) / 2


class SpanExtraction(Kind[SpanExample]):
    """A feature's layout holds the character offsets of its context pieces, None elsewhere; target (0, 0) is no answer."""

    name = "span_extraction"

    def features(
        self, example: SpanExample, index: int, *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        encoded = tokenizer(
            example.question,
            example.context,
            truncation="only_second",
            max_length=max_length,
            stride=min(STRIDE, max_length // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        found: list[Feature] = []
        for window, ids in enumerate(encoded["input_ids"]):
            sides = encoded.sequence_ids(window)
            offsets = tuple(
                tuple(offset) if side == 1 else None
                for offset, side in zip(encoded["offset_mapping"][window], sides, strict=True)
            )
            found.append(Feature(index, (tuple(ids),), _span_of(example, offsets), layout=offsets))
        return found

    def head(self, hidden_size: int, task: Task) -> Head:
        return SpanHead(hidden_size)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {
            "starts": torch.tensor([feature.target[0] for feature in features]),
            "ends": torch.tensor([feature.target[1] for feature in features]),
        }

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[SpanExample], task: Task
    ) -> list[Any]:
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(examples)
        for feature, values in zip(features, logits, strict=True):
            context = examples[feature.example].context
            for score, start, end in _spans(values[0], feature.layout):
                if score > best[feature.example][0]:
                    best[feature.example] = (score, context[feature.layout[start][0] : feature.layout[end][1]])
        return [text for _, text in best]

    def reference(self, example: SpanExample, task: Task) -> tuple[str, ...]:
        return tuple(text for text, _ in example.answers)


def _span_of(example: SpanExample, offsets: Sequence[tuple[int, int] | None]) -> tuple[int, int]:
    """First and last piece of the first answer, if this window holds all of it, else (0, 0)."""
    if not example.answers:
        return 0, 0
    text, start = example.answers[0]
    inside = [
        position
        for position, offset in enumerate(offsets)
        if offset is not None and offset[0] < start + len(text) and offset[1] > start
    ]
    if not inside or offsets[inside[0]][0] > start or offsets[inside[-1]][1] < start + len(text):  # type: ignore[index]
        return 0, 0
    return inside[0], inside[-1]


def _spans(values_L2: np.ndarray, layout: Sequence[tuple[int, int] | None]) -> list[tuple[float, int, int]]:
    """The likeliest spans of a window that lie in the context and are no longer than an answer may be."""
    allowed = np.array([offset is not None for offset in layout])
    starts, ends = (np.where(allowed, values_L2[: len(layout), side], -np.inf) for side in (0, 1))
    best_starts, best_ends = (np.argsort(-side)[:N_BEST] for side in (starts, ends))
    return [
        (float(starts[start] + ends[end]), int(start), int(end))
        for start in best_starts
        for end in best_ends
        if start <= end < start + MAX_ANSWER_PIECES and allowed[start] and allowed[end]
    ]
