"""LogME: how well a Bayesian linear model on an encoder's vectors explains a target's labels (You et al. 2021, 2102.11005).

The model is y = F w + noise, with w ~ N(0, 1/alpha) and noise ~ N(0, 1/beta); y is one column of the one-hot labels. LogME is
the evidence log p(y | F, alpha, beta), maximised over alpha and beta, divided by the number of rows, and averaged over columns.
There is no intercept, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.estimators.base import Estimate
from trainables.estimators.units import Undefined
from trainables.estimators.vectors import Labelled
from trainables.stages.base import Stage, Workplace

Floats = npt.NDArray[np.float64]
MOST_ITERATIONS = 500
TOLERANCE = 1e-6  # relative change of alpha / beta at which the iteration ends
EXTREME = (
    1e10  # alpha / beta stays within this factor of the largest eigenvalue: labels may be pure noise, or fit exactly
)


@dataclass(frozen=True)
class LogME(Estimate):
    """Of the target's training labels, from the encoder after the intermediate task; higher is better, none is the base's."""

    name = "logme"
    reads_tuned = True

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.decisions(self.encoder),)

    def estimate(self, work: Workplace) -> float:
        return logme(self.decisions(self.encoder).read(work))


def logme(units: Labelled) -> float:
    """The mean of `log_evidence` over the classes that occur.

    Raises:
        Undefined: all units are of one class.
    """
    classes = np.unique(units.labels)
    if len(classes) < 2:
        raise Undefined("all of its labelled units have one class")
    features_NF = units.vectors.astype(np.float64)
    columns_NK = (units.labels[:, None] == classes[None]).astype(np.float64)
    return float(np.mean(log_evidence(features_NF, columns_NK)))


def log_evidence(features_NF: Floats, targets_NK: Floats) -> Floats:
    """For each column of targets, the maximal log evidence per row: (K,).

    With the eigenvalues s of F^T F and y in the basis of F's left singular vectors, everything depends on alpha / beta alone:
    beta = N / (|y - F m|^2 + alpha / beta |m|^2) follows. The fixed point of the paper (after MacKay 1992) is
    alpha = gamma / |m|^2 and beta = (N - gamma) / |y - F m|^2, with gamma = sum s / (s + alpha / beta).
    """
    left_NR, singular_R, _ = np.linalg.svd(features_NF, full_matrices=False)
    kept = singular_R > singular_R.max(initial=0.0) * max(features_NF.shape) * np.finfo(np.float64).eps
    if not kept.any():
        raise Undefined("all of its vectors are zero")
    left_NR, eigenvalues_R = left_NR[:, kept], singular_R[kept] ** 2
    return np.array([_column(eigenvalues_R, left_NR, column_N) for column_N in targets_NK.T])


def _column(eigenvalues_R: Floats, left_NR: Floats, target_N: Floats) -> float:
    count, projected_R = len(target_N), left_NR.T @ target_N
    outside = max(float(target_N @ target_N - projected_R @ projected_R), 0.0)  # of y, what no linear model explains
    largest = float(eigenvalues_R.max())

    def fit(ratio: float) -> tuple[float, float]:
        """|y - F m|^2 and |m|^2 at this alpha / beta."""
        shrunk_R = projected_R / (eigenvalues_R + ratio)
        return outside + float(((ratio * shrunk_R) ** 2).sum()), float((eigenvalues_R * shrunk_R**2).sum())

    ratio = largest
    for _ in range(MOST_ITERATIONS):
        residual, norm = fit(ratio)
        gamma = float((eigenvalues_R / (eigenvalues_R + ratio)).sum())
        if norm <= 0 or count - gamma <= 0:
            break
        updated = float(np.clip(gamma * residual / (norm * (count - gamma)), largest / EXTREME, largest * EXTREME))
        settled = abs(updated - ratio) <= TOLERANCE * ratio
        ratio = updated
        if settled:
            break
    residual, norm = fit(ratio)
    beta = count / max(residual + ratio * norm, np.finfo(np.float64).tiny)
    evidence = count * (np.log(beta / (2 * np.pi)) - 1) / 2
    evidence += float((np.log(ratio) - np.log(eigenvalues_R + ratio)).sum()) / 2
    return float(evidence) / count
