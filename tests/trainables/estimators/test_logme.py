"""LogME against the evidence as the density of the labels, maximised by a general optimiser; and what it must not depend on."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize

from trainables.estimators.logme import log_evidence, logme
from trainables.estimators.units import Undefined
from trainables.estimators.vectors import Labelled

Floats = npt.NDArray[np.float64]


def density(features_NF: Floats, target_N: Floats, alpha: float, beta: float) -> float:
    """log N(y; 0, F F^T / alpha + I / beta): the evidence without the weights, from the full covariance."""
    covariance_NN = features_NF @ features_NF.T / alpha + np.eye(len(target_N)) / beta
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance_NN)
    return float(-(log_determinant + target_N @ np.linalg.solve(covariance_NN, target_N)) / 2)


def maximised(features_NF: Floats, target_N: Floats) -> float:
    """The highest density over alpha and beta, per row, from several starts."""

    def loss(logs_2: Floats) -> float:
        alpha, beta = np.exp(np.clip(logs_2, -25, 25))
        return -density(features_NF, target_N, float(alpha), float(beta))

    found = [
        optimize.minimize(
            loss,
            np.array(start),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000},
        ).fun
        for start in product((-2.0, 3.0), (-1.0, 4.0))
    ]
    return -min(found) / len(target_N)


def labelled(vectors_NF: npt.ArrayLike, labels_N: npt.ArrayLike) -> Labelled:
    labels = np.asarray(labels_N, dtype=np.int64)
    return Labelled(np.asarray(vectors_NF, dtype=np.float32), labels, np.arange(len(labels)))


@pytest.mark.parametrize(("rows", "width"), [(40, 5), (30, 12), (12, 30)])
@pytest.mark.parametrize("signal", [0.3, 2.0])
def test_it_is_the_maximal_density_of_the_labels(rows: int, width: int, signal: float) -> None:
    random = np.random.default_rng(rows + width)
    features_NF = random.normal(size=(rows, width)) + 0.5
    targets_NK = np.stack(
        [(signal * features_NF[:, column] + random.normal(size=rows) > 0.3).astype(float) for column in range(3)],
        axis=1,
    )
    expected = [maximised(features_NF, target_N) for target_N in targets_NK.T]
    assert log_evidence(features_NF, targets_NK) == pytest.approx(expected, abs=2e-4)


def test_labels_that_the_vectors_explain_beat_labels_that_they_do_not() -> None:
    random = np.random.default_rng(0)
    vectors_NF = random.normal(size=(300, 16))
    explained = vectors_NF[:, :3].argmax(axis=1)
    values = [logme(labelled(vectors_NF, labels)) for labels in (explained, random.permutation(explained))]
    assert values[0] > values[1] + 0.1


def test_scale_and_rotation_of_the_vectors_change_nothing() -> None:
    random = np.random.default_rng(1)
    vectors_NF, labels = random.normal(size=(120, 8)), random.integers(3, size=120)
    rotation_FF, _ = np.linalg.qr(random.normal(size=(8, 8)))
    values = [logme(labelled(made, labels)) for made in (vectors_NF, 50 * vectors_NF, vectors_NF @ rotation_FF)]
    assert values == pytest.approx([values[0]] * 3, abs=1e-4)


def test_repeated_and_constant_columns_are_no_trouble() -> None:
    random = np.random.default_rng(2)
    vectors_NF, labels = random.normal(size=(60, 4)), random.integers(2, size=60)
    wide_NF = np.concatenate([vectors_NF, vectors_NF, np.zeros((60, 3))], axis=1)
    assert logme(labelled(wide_NF, labels)) == pytest.approx(logme(labelled(vectors_NF, labels)), abs=1e-4)


def test_what_has_no_evidence_is_refused() -> None:
    with pytest.raises(Undefined, match="one class"):
        logme(labelled(np.ones((4, 2)), [1, 1, 1, 1]))
    with pytest.raises(Undefined, match="zero"):
        logme(labelled(np.zeros((4, 2)), [0, 1, 0, 1]))
