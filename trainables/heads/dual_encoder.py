"""Dual encoder: one encoder maps queries and answers into one space; in-batch softmax, exact search over all languages.

In LAReQA (Roy et al. 2020) an answer is a sentence with its passage; in Mewsli (Botha et al. 2020) an entity is its
description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import RetrievalPair, RetrievalText
from trainables.heads.base import NO_PREFIXES, Feature, Head, HeadModule, Outputs, Pooling, Prefixes, by_example
from trainables.heads.bitext import EmbeddingModule, first_places
from trainables.heads.ranking import new_log_scale, ranking_loss
from trainables.heads.search import nearest
from trainables.tasks.base import Task

RANKED = 20  # candidates kept for each query


class DualEncoderModule(EmbeddingModule):
    """Outputs a row's vector. The two rows of a pair are adjacent, and `group` consecutive pairs are each other's negatives."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group
        self.log_scale = new_log_scale()

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        pairs_GP2D = logits.view(-1, self.group, 2, logits.shape[-1])
        return ranking_loss(pairs_GP2D[:, :, 0], pairs_GP2D[:, :, 1], self.log_scale)

    def idle(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        return super().idle(hidden_NLD, mask_NL) + self.log_scale.sum()  # the vectors do not depend on the scale


class DualEncoder(Head[RetrievalPair | RetrievalText]):
    """A pair's rows are query and answer; a text of a retrieval set has one row."""

    name = "dual_encoder"
    fills_rows = True

    def features(
        self,
        examples: Sequence[RetrievalPair | RetrievalText],
        *,
        task: Task,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
    ) -> list[Feature]:
        queries = [text for example in examples if (text := _query(example)) is not None]
        answers = [pair for example in examples if (pair := _answer(example)) is not None]
        query_rows = iter(_rows(tokenizer, queries, min(task.query_length or max_length, max_length)))
        answer_rows = iter(_rows(tokenizer, answers, min(task.answer_length or max_length, max_length)))
        features = []
        for index, example in enumerate(examples):
            rows = [next(query_rows)] if _query(example) is not None else []
            rows += [next(answer_rows)] if _answer(example) is not None else []
            features.append(Feature(index, tuple(rows), ()))
        return features

    def prefixed(
        self, examples: Sequence[RetrievalPair | RetrievalText], prefixes: Prefixes
    ) -> Sequence[RetrievalPair | RetrievalText]:
        return [
            replace(example, query=prefixes.query + example.query, answer=prefixes.passage + example.answer)
            if isinstance(example, RetrievalPair)
            else replace(example, text=(prefixes.passage if example.gold is None else prefixes.query) + example.text)
            for example in examples
        ]

    def rows_per_feature(self, task: Task) -> int:
        return 2  # the query and its answer

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return DualEncoderModule(task.group)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {}

    def decode(self, outputs: Outputs[RetrievalPair | RetrievalText], task: Task) -> list[Any]:
        return self.decode_all([outputs], task)[0]

    def decode_all(self, sets: Sequence[Outputs[RetrievalPair | RetrievalText]], task: Task) -> list[list[Any]]:
        """For each query the best candidates of all sets of its split; None for a candidate."""
        predictions: dict[int, list[Any]] = {}
        for split in {outputs.split for outputs in sets}:
            of_split = [number for number, outputs in enumerate(sets) if outputs.split == split]
            predictions |= dict(zip(of_split, _ranked([sets[number] for number in of_split]), strict=True))
        return [predictions[number] for number in range(len(sets))]

    def decisions(self, outputs: Outputs[RetrievalPair | RetrievalText], task: Task) -> list[Any]:
        """The nearest candidate to each query."""
        return [None if ranked is None else ranked[0] for ranked in self.decode(outputs, task)]

    def reference(self, example: RetrievalPair | RetrievalText, task: Task) -> tuple[str, ...] | None:
        return (_key(example),) if isinstance(example, RetrievalPair) else example.gold

    def candidate_names(self, sets: Sequence[Outputs[RetrievalPair | RetrievalText]]) -> list[Mapping[str, str]]:
        """The place of the first pair with that answer, among the pairs of all sets: each set searches the answers of all."""
        pairs = (example for outputs in sets for example in outputs.examples if isinstance(example, RetrievalPair))
        names = first_places(map(_key, pairs))
        return [names for _ in sets]

    def protocol(self, task: Task, prefixes: Prefixes = NO_PREFIXES) -> str:
        begin = f"{prefixes}, " if str(prefixes) else ""
        return (
            f"{begin}mean over tokens, L2-normalised, {RANKED} nearest by cosine over the candidates of all languages"
        )


def _query(example: RetrievalPair | RetrievalText) -> tuple[str, str | None] | None:
    if isinstance(example, RetrievalPair):
        return example.query, None
    return (example.text, example.context) if example.gold is not None else None


def _answer(example: RetrievalPair | RetrievalText) -> tuple[str, str | None] | None:
    if isinstance(example, RetrievalPair):
        return example.answer, example.context
    return (example.text, example.context) if example.gold is None else None


def _key(example: RetrievalPair | RetrievalText) -> str:
    """Identifies a candidate: its id, or its text for training pairs, where several questions share an answer."""
    return f"{example.answer}\n{example.context}" if isinstance(example, RetrievalPair) else example.id


def _rows(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, str | None]], max_length: int
) -> list[tuple[int, ...]]:
    if not texts:
        return []
    firsts = [text for text, _ in texts]
    contexts = None if texts[0][1] is None else [context or "" for _, context in texts]
    truncation: bool | str = True if contexts is None else "longest_first"
    encoded = tokenizer(firsts, contexts, truncation=truncation, max_length=max_length)
    return [tuple(ids) for ids in encoded["input_ids"]]


def _ranked(sets: Sequence[Outputs[RetrievalPair | RetrievalText]]) -> list[list[Any]]:
    """For each set the ranked candidate keys of its queries; a candidate that several sets hold counts once."""
    keys: dict[str, np.ndarray] = {}
    queries: list[np.ndarray] = []
    for outputs in sets:
        for example, values in zip(outputs.examples, by_example(outputs), strict=True):
            if _answer(example) is not None:
                keys.setdefault(_key(example), values[-1])
            if _query(example) is not None:
                queries.append(values[0])
    names = list(keys)
    rows_QN = iter(nearest(np.stack(queries), np.stack(list(keys.values())), RANKED)[1]) if queries else iter(())
    return [
        [
            tuple(names[int(column)] for column in next(rows_QN)) if _query(example) is not None else None
            for example in outputs.examples
        ]
        for outputs in sets
    ]
