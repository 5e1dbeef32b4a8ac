"""Bitext: mean-pooled, L2-normalised sentence vectors of one layer, searched exactly. No training, no parameters.

Retrieval (Tatoeba): the nearest English sentence is the prediction. Mining (BUCC): pairs are kept whose ratio margin is
above a threshold set on the language's dev set (Artetxe and Schwenk 2019).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import faiss
import numpy as np
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import BitextExample, RetrievalText
from trainables.heads.base import Feature, Head, HeadModule, Outputs, Pooling, by_example, mean_pool
from trainables.heads.mining import best_threshold, mined, ratio_margin_candidates
from trainables.tasks.base import Task


class EmbeddingHead(HeadModule):
    """A row's sentence vector."""

    def __init__(self, layer: int | None = None) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        return functional.normalize(mean_pool(hidden_NLD.float(), mask_NL), dim=-1)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        raise ValueError("bitext tasks are scored, not trained")


def search(queries_QD: np.ndarray, candidates_CD: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` candidates nearest to each query by inner product, best first: (Q, count)."""
    index = faiss.IndexFlatIP(candidates_CD.shape[1])
    index.add(np.ascontiguousarray(candidates_CD, dtype=np.float32))
    _, nearest_QN = index.search(np.ascontiguousarray(queries_QD, dtype=np.float32), min(count, len(candidates_CD)))
    return nearest_QN


def _protocol(task: Task, how: str) -> str:
    layer = "last layer" if task.hidden_layer is None else f"layer {task.hidden_layer}"
    return f"{layer}, mean over tokens, L2-normalised, {how}"


class BitextRetrieval(Head[BitextExample]):
    """A feature's two rows are the sentence and its English translation."""

    name = "bitext_retrieval"

    def features(
        self, examples: Sequence[BitextExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        texts = [text for example in examples for text in (example.source, example.target)]
        rows = [tuple(ids) for ids in tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]]
        return [Feature(index, (rows[2 * index], rows[2 * index + 1]), ()) for index in range(len(examples))]

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return EmbeddingHead(task.hidden_layer)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {}

    def decode(self, outputs: Outputs[BitextExample], task: Task) -> list[Any]:
        vectors_N2D = np.stack(by_example(outputs))
        nearest_N1 = search(vectors_N2D[:, 0], vectors_N2D[:, 1], 1)
        return [outputs.examples[int(row)].target for row in nearest_N1[:, 0]]

    def reference(self, example: BitextExample, task: Task) -> str:
        return example.target

    def protocol(self, task: Task) -> str:
        return _protocol(task, "nearest by cosine, exact search")


class BitextMining(Head[RetrievalText]):
    """Source sentences (queries) and English candidates of a language stand in one set."""

    name = "bitext_mining"

    def features(
        self, examples: Sequence[RetrievalText], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        texts = [example.text for example in examples]
        rows = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        return [Feature(index, (tuple(ids),), ()) for index, ids in enumerate(rows)]

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return EmbeddingHead(task.hidden_layer)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {}

    def decode(self, outputs: Outputs[RetrievalText], task: Task) -> list[Any]:
        raise ValueError(f"{task.name}: a set is mined with the threshold of its dev set; decode all sets together")

    def decode_all(self, sets: Sequence[Outputs[RetrievalText]], task: Task) -> list[list[Any]]:
        """Ids mined for each source sentence; the threshold is the best on the dev set of the same language."""
        thresholds: dict[str, float] = {}
        for outputs in sets:
            if outputs.split == "dev":
                sources, targets, pairs = _scored(outputs)
                gold = {(row, found) for row, example in enumerate(sources) for found in example.gold or ()}
                place = {example.id: column for column, example in enumerate(targets)}
                known = {(row, place[found]) for row, found in gold if found in place}
                thresholds[outputs.language], _ = best_threshold(pairs, known)
        predictions: list[list[Any]] = []
        for outputs in sets:
            sources, targets, pairs = _scored(outputs)
            chosen: defaultdict[str, list[str]] = defaultdict(list)
            for row, column, _ in mined(pairs, thresholds[outputs.language]):
                chosen[sources[row].id].append(targets[column].id)
            predictions.append([tuple(chosen.get(example.id, ())) for example in outputs.examples])
        return predictions

    def reference(self, example: RetrievalText, task: Task) -> tuple[str, ...] | None:
        return example.gold

    def protocol(self, task: Task) -> str:
        return _protocol(task, "ratio margin over 4 neighbours, threshold from the language's dev set")


def _scored(outputs: Outputs[RetrievalText]) -> tuple[list[RetrievalText], list[RetrievalText], Any]:
    """Source sentences, candidates, and the margin-scored pairs between their places."""
    vectors_ND = np.concatenate(by_example(outputs))
    is_query = np.array([example.gold is not None for example in outputs.examples])
    sources = [example for example in outputs.examples if example.gold is not None]
    targets = [example for example in outputs.examples if example.gold is None]
    return sources, targets, ratio_margin_candidates(vectors_ND[is_query], vectors_ND[~is_query])
