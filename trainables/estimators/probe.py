"""A linear probe: logistic regression on an encoder's frozen vectors, scored on English dev (Choshen et al. 2022, 2211.00107).

The measure is the share of right decisions in percent, whatever the target's own metric: of examples in classification and
multiple choice, of words in tagging, of tokens in spans, of matched and mismatched pairs in retrieval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from trainables.estimators.base import Estimate
from trainables.estimators.units import Undefined
from trainables.estimators.vectors import Labelled, Part
from trainables.stages.base import Stage, Workplace

Floats = npt.NDArray[np.float64]
PARTS: tuple[Part, Part] = ("train", "dev")
PENALTY = 1.0  # of half the squared weights, beside the summed loss; vectors are standardised
MOST_ITERATIONS = 200


@dataclass(frozen=True)
class LinearProbe(Estimate):
    """Trained on the target's training set, from the encoder after the intermediate task; none is the base's."""

    name = "probe"
    reads_tuned = True

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.decisions(self.encoder), self.decisions(self.encoder, "dev"))

    def estimate(self, work: Workplace) -> float:
        train, dev = (self.decisions(self.encoder, part).read(work) for part in PARTS)
        return fit_probe(train.vectors, train.labels).accuracy(dev, grouped=self.task.head == "multiple_choice")


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits are `(x - mean) / scale @ weights + bias`, a column for each of the K `classes`.

    Shapes: weights (F, K), bias (K), mean and scale (F).
    """

    classes: npt.NDArray[np.int64]
    weights: Floats
    bias: Floats
    mean: Floats
    scale: Floats

    def logits(self, vectors_NF: npt.ArrayLike) -> Floats:
        return (np.asarray(vectors_NF, dtype=np.float64) - self.mean) / self.scale @ self.weights + self.bias

    def accuracy(self, units: Labelled, *, grouped: bool = False) -> float:
        """Percent of right decisions; `grouped`: one for each group, the unit most likely of class 1.

        Ties go to the first.
        """
        logits_NK = self.logits(units.vectors)
        if not grouped:
            return 100.0 * float(np.mean(self.classes[logits_NK.argmax(axis=1)] == units.labels))
        margins_N = logits_NK[:, -1] - logits_NK[:, 0]  # the classes are 0, wrong, and 1, right
        groups = [np.flatnonzero(units.groups == group) for group in np.unique(units.groups)]
        return 100.0 * float(np.mean([units.labels[group[margins_N[group].argmax()]] == 1 for group in groups]))


def fit_probe(vectors_NF: npt.ArrayLike, labels_N: npt.ArrayLike, *, penalty: float = PENALTY) -> Probe:
    """Multinomial logistic regression on standardised vectors; the bias is not penalised.

    Raises:
        Undefined: all labels are of one class.
    """
    raw_NF = np.asarray(vectors_NF, dtype=np.float64)
    classes, labels = np.unique(np.asarray(labels_N), return_inverse=True)
    if len(classes) < 2:
        raise Undefined("all of its labelled units have one class")
    mean_F, scale_F = raw_NF.mean(axis=0), raw_NF.std(axis=0)
    scale_F = np.where(scale_F > 0, scale_F, 1.0)
    x_NF = (raw_NF - mean_F) / scale_F
    wanted_NK = (labels[:, None] == np.arange(len(classes))).astype(np.float64)
    shape = (x_NF.shape[1], len(classes))

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights_FK, bias_K = flat[: -len(classes)].reshape(shape), flat[-len(classes) :]
        log_NK = special.log_softmax(x_NF @ weights_FK + bias_K, axis=1)
        error_NK = np.exp(log_NK) - wanted_NK
        slope_FK = x_NF.T @ error_NK + penalty * weights_FK
        value = -float((log_NK * wanted_NK).sum()) + penalty * float((weights_FK**2).sum()) / 2
        return value, np.concatenate([slope_FK.ravel(), error_NK.sum(axis=0)])

    start = np.zeros(shape[0] * shape[1] + shape[1])
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_ITERATIONS})
    weights_FK, bias_K = found.x[: -len(classes)].reshape(shape), found.x[-len(classes) :]
    return Probe(classes, weights_FK, bias_K, mean_F, scale_F)
