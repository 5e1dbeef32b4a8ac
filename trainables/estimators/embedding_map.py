"""Embedding space maps (Schulte et al. 2024, 2410.15148): LogME of the base encoder's vectors after a small linear map.

The map takes the base encoder's vector of a text to the intermediate-tuned encoder's vector of the same text, fitted on the
intermediate task's training set. Once it is fitted, a new target needs only the base encoder's vectors. To fit it, the tuned
encoder is needed: its cost includes the intermediate training.

Two deviations from the paper. Its map, one linear layer with a bias, is trained by AdamW for ten epochs with weight decay; here
it is the exact minimiser of the squared error with a small ridge, which is the same on every machine. And for targets that
decide about tokens or pairs of texts, which the paper leaves out, the map is fitted on tokens or means of texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.estimators.base import Estimate
from trainables.estimators.logme import logme
from trainables.estimators.vectors import Vectors, text_kind
from trainables.stages.base import Stage, Workplace
from trainables.stages.finetune import root_of

Floats = npt.NDArray[np.float64]
RIDGE = 0.01  # times the mean variance of a dimension of the base's vectors, as the paper's weight decay


@dataclass(frozen=True)
class EmbeddingMap(Estimate):
    """For none there is nothing to map: it is LogME of the base encoder."""

    name = "embedding_map"
    reads_tuned = True
    reads_texts = True

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.decisions(root_of(self.encoder)), *self._texts(before=True), *self._texts(before=False))

    def estimate(self, work: Workplace) -> float:
        target = self.decisions(root_of(self.encoder))
        befores, afters = self._texts(before=True), self._texts(before=False)
        if not befores:
            return logme(target.read(work))
        before_ND, after_ND = (
            np.concatenate([texts.read(work).vectors for texts in side]) for side in (befores, afters)
        )
        return logme(target.read(work, fit_map(before_ND, after_ND)))

    def _texts(self, *, before: bool) -> tuple[Vectors, ...]:
        encoder = root_of(self.encoder) if before else self.encoder
        return self.intermediate_texts(encoder, text_kind(self.task.head))


@dataclass(frozen=True)
class LinearMap:
    """x -> (x - mean) @ weights + bias, applied to rows; weights are (D, D)."""

    mean: Floats
    weights: Floats
    bias: Floats

    def __call__(self, vectors_ND: npt.ArrayLike) -> Floats:
        return (np.asarray(vectors_ND, dtype=np.float64) - self.mean) @ self.weights + self.bias


def fit_map(before_ND: npt.ArrayLike, after_ND: npt.ArrayLike, *, ridge: float = RIDGE) -> LinearMap:
    """The linear map with bias of least squared error from one set of vectors to the other, row by row."""
    before, after = np.asarray(before_ND, dtype=np.float64), np.asarray(after_ND, dtype=np.float64)
    mean_D, bias_D = before.mean(axis=0), after.mean(axis=0)
    centred_ND = before - mean_D
    gram_DD = centred_ND.T @ centred_ND
    penalty = ridge * float(np.trace(gram_DD)) / len(gram_DD) or 1.0  # all vectors alike: the map is the constant
    weights_DD = np.linalg.solve(gram_DD + penalty * np.eye(len(gram_DD)), centred_ND.T @ (after - bias_D))
    return LinearMap(mean_D, weights_DD, bias_D)
