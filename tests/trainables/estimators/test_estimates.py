"""Estimates as stages of a small study: what they read, and that they are found again; maps and cosines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from study.spec import NONE, Choice, Mixture, Resources, Size, Study
from tests.support import recipes
from trainables.estimators.base import Estimate
from trainables.estimators.embedding_map import EmbeddingMap, fit_map
from trainables.estimators.logme import LogME
from trainables.estimators.probe import LinearProbe
from trainables.estimators.registry import ESTIMATORS
from trainables.estimators.text_similarity import TextSimilarity, cosine
from trainables.estimators.vectors import Kind, Vectors, encode
from trainables.heads.features import FeatureTable
from trainables.models.encoder import hidden_states, load_encoder
from trainables.models.published_encoder import shipped_encoder
from trainables.models.task_model import ENCODER
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import root_of
from trainables.store.stage_store import StageStore
from trainables.tasks.base import Task
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic
from trainables.tasks.micro.span import MicroSpan

LENGTH = 64


def test_a_planted_map_is_found() -> None:
    random = np.random.default_rng(0)
    before_ND, weights_DD = random.normal(size=(80, 6)), random.normal(size=(6, 6))
    found = fit_map(before_ND, before_ND @ weights_DD + 3.0, ridge=1e-9)
    new_ND = random.normal(size=(5, 6))
    assert found(new_ND) == pytest.approx(new_ND @ weights_DD + 3.0, abs=1e-6)


def test_a_map_of_fewer_texts_than_dimensions_stays_finite() -> None:
    random = np.random.default_rng(1)
    before_ND = random.normal(size=(4, 12))
    after_ND = before_ND + 1.0
    errors = [np.abs(fit_map(before_ND, after_ND, ridge=ridge)(before_ND) - after_ND).max() for ridge in (0.01, 1e6)]
    assert errors[0] < 0.1 < errors[1]
    assert fit_map(np.ones((3, 2)), [[1.0, 5.0]] * 3)([[9.0, 9.0]]) == pytest.approx(np.array([[1.0, 5.0]]))


def test_cosines() -> None:
    assert cosine([1.0, 0.0], [2.0, 0.0]) == pytest.approx(1.0)
    assert cosine([1.0, 1.0], [1.0, -1.0]) == pytest.approx(0.0)
    assert np.isnan(cosine([0.0, 0.0], [1.0, 0.0]))


@pytest.fixture(scope="module")
def study() -> Study:
    """Targets of four heads, and a mixture among the intermediate choices."""
    size = Size("1x64", shipped_encoder("micro-ladder", "1x64"), Resources())
    study = recipes.published_study(size)
    own: list[Any] = [task(languages_=recipes.LANGUAGES, **recipes.SMALL) for task in (MicroFollows, MicroSpan)]
    topic, paraphrase = MicroTopic(**recipes.SMALL), MicroParaphrase(**recipes.SMALL)
    space = dataclasses.replace(study.space, intermediates=(topic, Mixture("both", (topic, paraphrase))))
    return dataclasses.replace(study, targets=(*study.targets[:2], *own), space=space)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(StageStore(tmp_path_factory.mktemp("estimates")))


def base_of(study: Study, intermediate: str) -> Any:
    choice = next(choice for choice in study.space.defaults() if choice.intermediate == intermediate)
    return study.base(study.sizes[0], choice)


def value_of(estimate: Estimate, work: Workplace) -> float:
    return float(ensure(estimate, work).metrics["value"])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_every_target_gets_a_number_from_english_alone(
    name: str, study: Study, work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    of = FeatureTable.of

    def recorded(table: FeatureTable, wanted: str) -> FeatureTable:
        read.add(wanted)
        return of(table, wanted)

    monkeypatch.setattr(FeatureTable, "of", recorded)
    for target in study.targets:
        estimates = [ESTIMATORS[name](base_of(study, choice), target, LENGTH) for choice in ("micro_topic", "both")]
        values = [value_of(estimate, work) for estimate in estimates]
        assert np.isfinite(values).all()
        assert values[0] != values[1] or name == "probe"
    assert read <= {"train/en", "dev/en"}
    assert read
    none = ensure(ESTIMATORS[name](base_of(study, NONE), study.targets[0], LENGTH), work)
    assert ("unavailable" in none.metrics) == (name == "text_similarity")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_without_a_map_it_is_logme(study: Study, work: Workplace) -> None:
    none = base_of(study, NONE)
    values = [value_of(kind(none, study.targets[0], LENGTH), work) for kind in (LogME, EmbeddingMap)]
    assert values[0] == values[1]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_nothing_is_computed_twice(study: Study, work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    estimates = [kind(base_of(study, "micro_topic"), study.targets[0], LENGTH) for kind in (LogME, LinearProbe)]
    first = [value_of(estimate, work) for estimate in estimates]

    def produced(*_: object) -> None:
        raise AssertionError("a stage was produced again")

    monkeypatch.setattr(Vectors, "produce", produced)
    monkeypatch.setattr(Estimate, "produce", produced)
    again = Workplace(StageStore(work.store.root))
    assert [value_of(estimate, again) for estimate in estimates] == first
    (shared,) = set(estimates[0].parents) & set(estimates[1].parents)
    assert shared == estimates[0].decisions(estimates[0].encoder)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_texts_alone_need_no_intermediate_training(study: Study, tmp_path: Path) -> None:
    work = Workplace(StageStore(tmp_path))
    value_of(TextSimilarity(base_of(study, "both"), study.targets[0], LENGTH), work)
    assert not list(tmp_path.glob("stages/intermediate-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("unit", ["row", "token"])
def test_vectors_are_the_encoders_states(unit: Kind, study: Study, work: Workplace) -> None:
    """Row by row without padding, which changes nothing but rounding."""
    target: Task = study.targets[0].for_training()
    tuned = base_of(study, "micro_topic")
    stage = Vectors(tuned, target, "train", unit, LENGTH, 7)
    finished = ensure(stage, work)
    encoder = load_encoder(work.store.folder(tuned) / ENCODER).eval()
    vectors_NF = stage.read(work).vectors
    table = stage.table.table(work).of("train/en")
    features = table.take([int(number) for number in np.linspace(0, len(table) - 1, 7).round()])
    row = features[1].rows[0]
    with torch.no_grad():
        states_LD = hidden_states(encoder, torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))[0].numpy()
    if unit == "row":
        assert finished.metrics["units"] == 7
        assert vectors_NF[1] == pytest.approx(states_LD.mean(axis=0), abs=1e-4)
    else:
        first = min(8, max(1, len(features[0].rows[0]) - 2))  # the tokens of the feature before
        assert vectors_NF[first] == pytest.approx(states_LD[1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_equal_rows_are_encoded_once(study: Study, work: Workplace) -> None:
    root = root_of(base_of(study, NONE))
    ensure(root, work)
    encoder = load_encoder(work.store.folder(root) / ENCODER).eval()
    seen: list[int] = []
    vectors_PD = encode(
        *(encoder, [((0, 9, 2), None), ((0, 9, 2), 1), ((0, 8, 7, 2), None)], 1),
        pooling="first",
        device=torch.device("cpu"),
        observe=lambda done, total: seen.append(total),
    )
    assert set(seen) == {2}
    assert vectors_PD.shape == (3, encoder.config.hidden_size)
    assert not np.allclose(vectors_PD[0], vectors_PD[1])


def test_the_default_choice_of_an_estimate_names_its_parents(study: Study) -> None:
    """The target's features are those that the search trains on and scores."""
    choice = Choice("micro_topic", study.space.defaults()[1].lr_intermediate, 1e-3)
    evaluate = study.chain(study.sizes[0], choice)[0]
    probe = LinearProbe(study.base(study.sizes[0], choice), study.targets[0], evaluate.max_length)
    tables = {vectors.table for vectors in probe.parents if isinstance(vectors, Vectors)}
    assert tables == {evaluate.features, evaluate.model.features}  # type: ignore[union-attr]
