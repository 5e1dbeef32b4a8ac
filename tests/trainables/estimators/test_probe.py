"""The linear probe against scikit-learn's logistic regression, and how it decides."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trainables.estimators.probe import PENALTY, Probe, fit_probe
from trainables.estimators.units import Undefined
from trainables.estimators.vectors import Labelled


@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_penalised_logistic_regression_on_standardised_vectors(classes: int) -> None:
    random = np.random.default_rng(classes)
    vectors_NF = 3.0 + random.normal(size=(200, 6)) * [1, 2, 3, 4, 5, 6]
    labels = (vectors_NF[:, :classes] / [1, 2, 3, 4][:classes] + random.normal(size=(200, classes))).argmax(axis=1)
    probe = fit_probe(vectors_NF, labels)
    # scikit-learn fits two classes with one weight vector; the symmetric pair of vectors has half of its penalty.
    penalty = PENALTY / 2 if classes == 2 else PENALTY
    scaled_NF = StandardScaler().fit_transform(vectors_NF)
    oracle = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000).fit(scaled_NF, labels)
    exponents = np.exp(probe.logits(vectors_NF))
    shares = exponents / exponents.sum(axis=1, keepdims=True)
    assert shares == pytest.approx(oracle.predict_proba(scaled_NF), abs=2e-3)


def test_of_several_alternatives_the_likeliest_is_chosen() -> None:
    """By single units all but one are right; of the two examples, the second is answered wrong."""
    probe = Probe(np.array([0, 1]), np.array([[-1.0, 1.0]]), np.zeros(2), np.zeros(1), np.ones(1))
    vectors_NF = np.array([[-1.0], [2.0], [-3.0], [1.0], [0.5]], dtype=np.float32)
    units = Labelled(vectors_NF, np.array([0, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 1]))
    assert probe.accuracy(units, grouped=True) == 50.0
    assert probe.accuracy(units) == 80.0


def test_a_class_that_is_not_trained_on_is_never_right() -> None:
    probe = fit_probe([[0.0], [1.0], [0.1], [0.9]], [0, 5, 0, 5])
    units = Labelled(np.array([[0.0], [1.0]], dtype=np.float32), np.array([0, 3]), np.array([0, 1]))
    assert probe.accuracy(units) == 50.0


def test_one_class_is_refused() -> None:
    with pytest.raises(Undefined, match="one class"):
        fit_probe([[0.0], [1.0]], [2, 2])
