"""Span extraction: predict start and end in the context; long contexts are read in overlapping windows."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import SpanExample
from trainables.heads.base import Feature, Head, HeadModule, Outputs, Pooling, probabilities
from trainables.heads.ceiling import best_answer
from trainables.metrics import METRICS, Counts
from trainables.tasks.base import Task

STRIDE = (
    128  # largest overlap of windows, in tokens; XTREME's doc_stride of 128 is the step, so its windows overlap more
)
QUESTION_TOKENS = 64  # XTREME's max_query_length
MAX_ANSWER_TOKENS = (
    30  # XTREME's max_answer_length; up to 4% of XQuAD's answers are longer and never predicted (Greek, mBERT)
)
N_BEST = 20


class SpanModule(HeadModule):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, 2)

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        logits_NL2 = self.out(hidden_NLD)
        return logits_NL2.masked_fill(mask_NL.unsqueeze(-1) == 0, torch.finfo(logits_NL2.dtype).min)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        starts = functional.cross_entropy(logits[..., 0].float(), targets["starts"], reduction="sum")
        return (starts + functional.cross_entropy(logits[..., 1].float(), targets["ends"], reduction="sum")) / 2


class SpanExtraction(Head[SpanExample]):
    """A feature's layout holds each token's start and end character, -1 outside the context; target (0, 0) is no answer."""

    name = "span_extraction"
    cascades = True
    fills_rows = True

    def features(
        self, examples: Sequence[SpanExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        longest = min(QUESTION_TOKENS, max_length // 3)
        encoded = tokenizer(
            _truncated([example.question for example in examples], tokenizer, longest),
            [example.context for example in examples],
            truncation="only_second",
            max_length=max_length,
            stride=min(STRIDE, (max_length - longest) // 3),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features: list[Feature] = []
        for window, index in enumerate(encoded["overflow_to_sample_mapping"]):
            offsets_L2 = np.array(encoded["offset_mapping"][window])
            offsets_L2[np.array([side != 1 for side in encoded.sequence_ids(window)])] = -1
            _extend_over_marks(offsets_L2, examples[index].context)
            target = _span_of(examples[index], offsets_L2)
            layout = tuple(offsets_L2.flatten().tolist())
            features.append(Feature(index, (tuple(encoded["input_ids"][window]),), target, layout=layout))
        return features

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return SpanModule(hidden_size)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {
            "starts": torch.tensor([feature.target[0] for feature in features]),
            "ends": torch.tensor([feature.target[1] for feature in features]),
        }

    def decode(self, outputs: Outputs[SpanExample], task: Task) -> list[Any]:
        """The likeliest span over all windows; "" if the task allows no answer and it is at least as likely (SQuAD 2.0)."""
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(outputs.examples)
        no_answer = [np.inf] * len(outputs.examples)
        for feature, values in zip(outputs.features, outputs.logits, strict=True):
            offsets_L2 = _offsets(feature)
            no_answer[feature.example] = min(no_answer[feature.example], float(values[0, 0].sum()))
            for score, start, end in _spans(values[0], offsets_L2[:, 0] >= 0):
                if score > best[feature.example][0]:
                    context = outputs.examples[feature.example].context
                    best[feature.example] = (score, context[offsets_L2[start, 0] : offsets_L2[end, 1]])
        return [
            "" if task.unanswerable and empty >= score else text
            for (score, text), empty in zip(best, no_answer, strict=True)
        ]

    def confidence(self, outputs: Outputs[SpanExample], task: Task) -> list[float]:
        """The product of the likeliest start's and the likeliest end's probability, over all windows of the context."""
        windows: list[list[np.ndarray]] = [[] for _ in outputs.examples]
        for feature, values in zip(outputs.features, outputs.logits, strict=True):
            inside = _offsets(feature)[:, 0] >= 0
            windows[feature.example].append(values[0, : len(inside)][inside])
        contexts = (np.concatenate(of_example) for of_example in windows)
        return [
            float(np.prod(probabilities(context_L2.T).max(axis=-1))) if len(context_L2) else 0.0
            for context_L2 in contexts
        ]

    def reference(self, example: SpanExample, task: Task) -> tuple[str, ...]:
        return tuple(text for text, _ in example.answers)

    def ceiling(
        self, examples: Sequence[SpanExample], features: Sequence[Feature], *, task: Task, language: str
    ) -> Counts:
        windows: list[list[np.ndarray]] = [[] for _ in examples]
        for feature in features:
            windows[feature.example].append(_offsets(feature))
        best = (
            best_answer(
                *(example, of_example),
                metric=METRICS[task.metric],
                language=language,
                longest=MAX_ANSWER_TOKENS,
                unanswerable=task.unanswerable,
            )
            for example, of_example in zip(examples, windows, strict=True)
        )
        return sum(best, Counts())


def _offsets(feature: Feature) -> np.ndarray:
    """Start and end character of each token, (L, 2)."""
    return np.array(feature.layout).reshape(-1, 2)


def _truncated(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, longest: int) -> list[str]:
    """The texts, each cut after `longest` tokens."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    return [
        text if len(offsets) <= longest else text[: offsets[longest - 1][1]]
        for text, offsets in zip(texts, encoded["offset_mapping"], strict=True)
    ]


def _extend_over_marks(offsets_L2: np.ndarray, context: str) -> None:
    """Move each token's end past combining marks that NFKC composes with its last character ("e" and an accent).

    A tokenizer's offsets end before such marks, so that no window would hold an answer that ends with one.
    """
    if unicodedata.is_normalized("NFKC", context):
        return
    starts, ends = offsets_L2.T
    following = np.append(starts[1:], -1)
    following[following < 0] = len(context)
    for token in np.flatnonzero((starts >= 0) & (ends < following)):
        start, end = int(starts[token]), int(ends[token])
        normal = len(unicodedata.normalize("NFKC", context[start:end]))
        while end < following[token] and len(unicodedata.normalize("NFKC", context[start : end + 1])) <= normal:
            end += 1
        offsets_L2[token, 1] = end


def _span_of(example: SpanExample, offsets_L2: np.ndarray) -> tuple[int, int]:
    """First and last token of the first answer, or (0, 0) if this window does not hold all of it.

    Some answers start or end with white space, which belongs to no token.
    """
    if not example.answers:
        return 0, 0
    text, start = example.answers[0]
    end = start + len(text.rstrip())
    start += len(text) - len(text.lstrip())
    starts, ends = offsets_L2.T
    inside = np.flatnonzero((starts >= 0) & (starts < end) & (ends > start))
    if not len(inside) or starts[inside[0]] > start or ends[inside[-1]] < end:
        return 0, 0
    return int(inside[0]), int(inside[-1])


def _spans(values_L2: np.ndarray, allowed_L: np.ndarray) -> list[tuple[float, int, int]]:
    """Scores, first and last tokens of a window's likeliest spans that lie in the context and are short enough."""
    starts, ends = (np.where(allowed_L, values_L2[: len(allowed_L), side], -np.inf) for side in (0, 1))
    best_starts, best_ends = (np.argsort(-side)[:N_BEST] for side in (starts, ends))
    return [
        (float(starts[start] + ends[end]), int(start), int(end))
        for start in best_starts
        for end in best_ends
        if start <= end < start + MAX_ANSWER_TOKENS and allowed_L[start] and allowed_L[end]
    ]
