"""Bitext: mean-pooled, L2-normalised sentence vectors of one layer, searched exactly. No training, no parameters.

Retrieval (Tatoeba) predicts the nearest English sentence. Mining (BUCC) predicts the pairs whose ratio margin reaches a
threshold that is set on the language's dev set (Artetxe and Schwenk 2019).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import BitextExample, RetrievalText
from trainables.heads.base import (
    NO_PREFIXES,
    Feature,
    Head,
    HeadModule,
    Outputs,
    Pooling,
    Prefixes,
    by_example,
    mean_pool,
)
from trainables.heads.mining import ScoredPair, best_threshold, mined, ratio_margin_candidates
from trainables.heads.search import nearest
from trainables.tasks.base import Task


class EmbeddingModule(HeadModule):
    """Outputs a row's sentence vector; has no parameters."""

    def __init__(self, layer: int | None = None) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        return functional.normalize(mean_pool(hidden_NLD.float(), mask_NL), dim=-1)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        raise ValueError("bitext tasks are scored, not trained")


def first_places(texts: Iterable[str]) -> dict[str, str]:
    """Each text with the number of its first occurrence."""
    places: dict[str, str] = {}
    for number, text in enumerate(texts):
        places.setdefault(text, str(number))
    return places


def _protocol(task: Task, search: str, prefixes: Prefixes) -> str:
    """Both sides of a translation are alike, so both begin as queries do (the usage of multilingual E5)."""
    layer = "last layer" if task.hidden_layer is None else f"layer {task.hidden_layer}"
    begin = f"texts begin with {prefixes.query!r}, " if prefixes.query else ""
    return f"{begin}{layer}, mean over tokens, L2-normalised, {search}"


class BitextRetrieval(Head[BitextExample]):
    """A feature's two rows are the sentence and its English translation."""

    name = "bitext_retrieval"

    def features(
        self, examples: Sequence[BitextExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        texts = [text for example in examples for text in (example.source, example.target)]
        rows = [tuple(ids) for ids in tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]]
        return [Feature(index, (rows[2 * index], rows[2 * index + 1]), ()) for index in range(len(examples))]

    def prefixed(self, examples: Sequence[BitextExample], prefixes: Prefixes) -> Sequence[BitextExample]:
        begin = prefixes.query
        return [replace(pair, source=begin + pair.source, target=begin + pair.target) for pair in examples]

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return EmbeddingModule(task.hidden_layer)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {}

    def decode(self, outputs: Outputs[BitextExample], task: Task) -> list[Any]:
        vectors_N2D = np.stack(by_example(outputs))
        _, rows_N1 = nearest(vectors_N2D[:, 0], vectors_N2D[:, 1], 1)
        return [outputs.examples[int(row)].target for row in rows_N1[:, 0]]

    def confidence(self, outputs: Outputs[BitextExample], task: Task) -> list[float]:
        """1 where the English sentence found finds the sentence back, else 0."""
        vectors_N2D = np.stack(by_example(outputs))
        found_N = nearest(vectors_N2D[:, 0], vectors_N2D[:, 1], 1)[1][:, 0]
        back_N = nearest(vectors_N2D[:, 1], vectors_N2D[:, 0], 1)[1][:, 0]
        return (back_N[found_N] == np.arange(len(found_N))).astype(float).tolist()

    def reference(self, example: BitextExample, task: Task) -> str:
        return example.target

    def candidate_names(self, sets: Sequence[Outputs[BitextExample]]) -> list[Mapping[str, str]]:
        """The number of the set's first example with that translation."""
        return [first_places(example.target for example in outputs.examples) for outputs in sets]

    def protocol(self, task: Task, prefixes: Prefixes = NO_PREFIXES) -> str:
        return _protocol(task, "nearest by cosine, exact search", prefixes)


class BitextMining(Head[RetrievalText]):
    """A language's set holds its source sentences (the queries) and the English candidates."""

    name = "bitext_mining"

    def features(
        self, examples: Sequence[RetrievalText], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        texts = [example.text for example in examples]
        rows = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        return [Feature(index, (tuple(ids),), ()) for index, ids in enumerate(rows)]

    def prefixed(self, examples: Sequence[RetrievalText], prefixes: Prefixes) -> Sequence[RetrievalText]:
        return [replace(example, text=prefixes.query + example.text) for example in examples]

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return EmbeddingModule(task.hidden_layer)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {}

    def decode(self, outputs: Outputs[RetrievalText], task: Task) -> list[Any]:
        raise ValueError(f"{task.name}: mining needs the threshold of the dev set; call decode_all with every set")

    def decode_all(self, sets: Sequence[Outputs[RetrievalText]], task: Task) -> list[list[Any]]:
        """Ids of the translations of each source sentence, with the threshold that is best on the language's dev set."""
        thresholds: dict[str, float] = {}
        for outputs in sets:
            if outputs.split == "dev":
                sources, targets, pairs = _scored(outputs)
                columns = {example.id: column for column, example in enumerate(targets)}
                gold = {
                    (row, columns[target_id])
                    for row, example in enumerate(sources)
                    for target_id in example.gold or ()
                    if target_id in columns
                }
                thresholds[outputs.language], _ = best_threshold(pairs, gold)
        predictions: list[list[Any]] = []
        for outputs in sets:
            sources, targets, pairs = _scored(outputs)
            translations: defaultdict[str, list[str]] = defaultdict(list)
            for row, column, _ in mined(pairs, thresholds[outputs.language]):
                translations[sources[row].id].append(targets[column].id)
            predictions.append([tuple(translations.get(example.id, ())) for example in outputs.examples])
        return predictions

    def decisions(self, outputs: Outputs[RetrievalText], task: Task) -> list[Any]:
        """The nearest candidate to each source sentence, without a margin and a threshold, which need whole sets."""
        vectors_ND = np.concatenate(by_example(outputs))
        is_query = np.array([example.gold is not None for example in outputs.examples])
        candidates = [example.id for example in outputs.examples if example.gold is None]
        rows = iter(nearest(vectors_ND[is_query], vectors_ND[~is_query], 1)[1][:, 0])
        return [None if example.gold is None else candidates[next(rows)] for example in outputs.examples]

    def reference(self, example: RetrievalText, task: Task) -> tuple[str, ...] | None:
        return example.gold

    def protocol(self, task: Task, prefixes: Prefixes = NO_PREFIXES) -> str:
        return _protocol(task, "ratio margin over 4 neighbours, threshold from the language's dev set", prefixes)


def _scored(outputs: Outputs[RetrievalText]) -> tuple[list[RetrievalText], list[RetrievalText], list[ScoredPair]]:
    """Source sentences, candidates, and the margin-scored pairs of their rows."""
    vectors_ND = np.concatenate(by_example(outputs))
    is_query = np.array([example.gold is not None for example in outputs.examples])
    sources = [example for example in outputs.examples if example.gold is not None]
    targets = [example for example in outputs.examples if example.gold is None]
    return sources, targets, ratio_margin_candidates(vectors_ND[is_query], vectors_ND[~is_query])
