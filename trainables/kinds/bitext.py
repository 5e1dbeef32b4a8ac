"""Bitext retrieval: mean-pooled, L2-normalised sentence vectors; the nearest English sentence is the prediction.

No training, no head. Protocol: last hidden layer, mean over real tokens, cosine similarity, exact search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import faiss
import numpy as np
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.kinds.base import Feature, Head, Kind, first_of, mean_pool
from trainables.tasks.base import BitextExample, Task

PROTOCOL = "last layer, mean over tokens, L2-normalised, exact cosine search"


class EmbeddingHead(Head):
    """No parameters: a row's sentence vector."""

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        return functional.normalize(mean_pool(hidden_NLD, mask_NL), dim=-1)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        raise ValueError("bitext retrieval is scored, not trained")


class BitextRetrieval(Kind[BitextExample]):
    """A feature's two rows are the sentence and its English translation."""

    name = "bitext_retrieval"

    def features(
        self, example: BitextExample, index: int, *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        encoded = tokenizer([example.source, example.target], truncation=True, max_length=max_length)
        return [Feature(index, tuple(tuple(ids) for ids in encoded["input_ids"]), ())]

    def head(self, hidden_size: int, task: Task) -> Head:
        return EmbeddingHead()

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {}

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[BitextExample], task: Task
    ) -> list[Any]:
        vectors_N2D = np.stack(first_of(features, logits, len(examples))).astype(np.float32)
        sources, targets = (np.ascontiguousarray(vectors_N2D[:, side]) for side in (0, 1))
        index = faiss.IndexFlatIP(targets.shape[1])
        index.add(targets)
        _, nearest = index.search(sources, 1)
        return [examples[int(row)].target for row in nearest[:, 0]]

    def reference(self, example: BitextExample, task: Task) -> str:
        return example.target
