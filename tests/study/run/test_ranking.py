"""Ranking a size's intermediate choices: what is estimated, what is found again, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from study.errors import CannotRun
from study.run.ranking import estimate_stages, rank
from study.spec import NONE, Choice, Joint, Resources, Size, Study
from tests.support import recipes
from tests.support.object_server import ObjectServer
from trainables.estimators.registry import ESTIMATORS
from trainables.models.published_encoder import shipped_encoder
from trainables.stages.base import Root
from trainables.stages.finetune import Tuned, root_of
from trainables.store.bucket.location import WORK_VARIABLE, work_folder
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic


def shipped(resources: Resources, lr_intermediate: float = 1e-3) -> Study:
    study = recipes.published_study(Size("1x64", shipped_encoder("micro-ladder", "1x64"), resources))
    tasks = (MicroTopic(**recipes.SMALL), MicroParaphrase(**recipes.SMALL))
    return dataclasses.replace(
        study, space=dataclasses.replace(study.space, intermediates=tasks, lr_intermediate=(lr_intermediate,))
    )


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_choice_is_ranked_for_every_target_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = shipped(Resources())
    rankings = rank(study, tmp_path, sizes=study.sizes, estimators=tuple(ESTIMATORS))
    assert [ranking.estimator for ranking in rankings] == list(ESTIMATORS)
    trained = {target.name for target in study.targets if target.trained}
    for ranking in rankings:
        names = set(study.space.names) - ({NONE} if ranking.estimator == "text_similarity" else set())
        assert set(ranking.values) == {(name, target) for name in names for target in trained}
        assert {target for _, target in ranking.unavailable if target not in trained} == {"micro_bitext"}
        assert {place.choice for place in ranking.order} == names
        assert ranking.estimates_s > 0
        assert (ranking.trainings_s > 0) == (ranking.estimator != "text_similarity")
        assert len(ranking.spared) == 2
        assert ranking.document()["targets"]["micro_bitext"]["values"] == {}
    made = sorted(path.name for path in tmp_path.glob("stages/*"))
    assert sum(name.startswith("intermediate-") for name in made) == 2
    assert not [name for name in made if name.startswith(("target-", "evaluate-"))]

    monkeypatch.setattr("trainables.stages.base._produce", lambda stage, work: pytest.fail(f"again: {stage.label}"))
    assert rank(study, tmp_path, sizes=study.sizes, estimators=tuple(ESTIMATORS)) == rankings
    with pytest.raises(CannotRun, match="holds another study"):
        rank(dataclasses.replace(study, first_rung=1), tmp_path, sizes=study.sizes, estimators=("logme",))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_choice_whose_training_diverges_has_no_estimate_and_no_place(tmp_path: Path) -> None:
    study = shipped(Resources(), lr_intermediate=1e30)
    (ranking,) = rank(study, tmp_path, sizes=study.sizes, estimators=("logme",))
    assert {choice for choice, _ in ranking.values} == {NONE}
    assert ranking.unavailable["micro_topic", "micro_tagging"] == "training micro_topic diverged"
    assert [place.choice for place in ranking.order] == [NONE]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_size_of_several_workers_needs_its_trainings_in_the_store(tmp_path: Path) -> None:
    study = shipped(Resources(workers=2, zero_stage=2))
    with pytest.raises(CannotRun, match=r"size 1x64 trains on 2 workers .* lacks intermediate-micro_paraphrase"):
        rank(study, tmp_path, sizes=study.sizes, estimators=("logme",))
    assert not list(tmp_path.iterdir())
    (ranking,) = rank(study, tmp_path, sizes=study.sizes, estimators=("text_similarity",))
    assert len(ranking.order) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_ranking_in_a_bucket_is_found_again_on_another_machine(
    object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, url = shipped(Resources()), object_server.new_url()
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / "first"))
    rankings = rank(study, work_folder(url), sizes=study.sizes, estimators=("text_similarity",))
    assert len(rankings[0].order) == 2
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / "second"))
    monkeypatch.setattr("trainables.stages.base._produce", lambda stage, work: pytest.fail(f"again: {stage.label}"))
    assert rank(study, work_folder(url), sizes=study.sizes, estimators=("text_similarity",)) == rankings
    with pytest.raises(CannotRun, match="holds another study"):
        rank(dataclasses.replace(study, first_rung=1), work_folder(url), sizes=study.sizes, estimators=("logme",))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_an_arm_without_estimates_costs_a_ranking_nothing(tmp_path: Path) -> None:
    """A joint arm trains no encoder that its targets start from: nothing of it is needed, or charged."""
    study = shipped(Resources(workers=2, zero_stage=2))
    topic, paraphrase = MicroTopic(**recipes.SMALL), MicroParaphrase(**recipes.SMALL)
    study = dataclasses.replace(study, space=dataclasses.replace(study.space, intermediates=(topic, Joint(paraphrase))))
    with pytest.raises(CannotRun) as refused:
        rank(study, tmp_path, sizes=study.sizes, estimators=("logme",))
    assert "lacks intermediate-micro_topic" in str(refused.value)
    assert "micro_paraphrase" not in str(refused.value)
    inline = shipped(Resources())
    inline = dataclasses.replace(inline, space=study.space)
    (ranking,) = rank(inline, tmp_path, sizes=inline.sizes, estimators=("logme",))
    assert {place.choice for place in ranking.order} == {NONE, "micro_topic"}
    trained = [path.name for path in tmp_path.glob("stages/intermediate-*")]
    assert len(trained) == 1
    assert trained[0].startswith("intermediate-micro_topic")


def test_data_that_are_not_pinned_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = shipped(Resources())
    monkeypatch.setattr(Study, "unpinned", ["xnli: the hub did not answer"])
    with pytest.raises(CannotRun, match="xnli: the hub did not answer"):
        rank(study, tmp_path, sizes=study.sizes, estimators=("logme",))


def test_estimates_start_where_the_targets_of_the_default_cells_do() -> None:
    study = shipped(Resources())
    (size,) = study.sizes
    stages = estimate_stages(study, size, "logme")
    for choice in study.space.defaults():
        stage = stages[choice.intermediate, "micro_tagging"]
        assert not isinstance(stage, str)
        assert stage.encoder == study.base(size, choice)
    assert isinstance(stages[NONE, "micro_bitext"], str)


class StartsElsewhere(Study):
    """Its targets start from the encoder itself, whatever the choice, as where they are trained together with another task."""

    def base(self, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        default = super().base(size, choice, trained=trained)
        return root_of(default)


def test_an_encoder_that_targets_do_not_start_from_says_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    study = shipped(Resources())
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(study)}
    other = StartsElsewhere(**fields)
    (size,) = study.sizes
    # The choice's encoder is the intermediate one, and the chains are those of a study whose targets start elsewhere.
    monkeypatch.setattr(
        StartsElsewhere, "chain", lambda self, size, choice: study.chain(size, study.space.defaults()[0])
    )
    monkeypatch.setattr(StartsElsewhere, "base", lambda self, size, choice: study.base(size, choice))
    stages = estimate_stages(other, size, "logme")
    assert isinstance(stages["micro_topic", "micro_tagging"], str)
    assert not isinstance(stages[NONE, "micro_tagging"], str)


def test_an_encoder_without_texts_of_its_own_is_judged_by_its_vectors_alone() -> None:
    study = shipped(Resources())
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(study)}
    other, (size,) = StartsElsewhere(**fields), study.sizes
    kinds = {name: type(estimate_stages(other, size, name)["micro_topic", "micro_tagging"]) for name in ESTIMATORS}
    assert {name for name, kind in kinds.items() if kind is str} == {"embedding_map", "text_similarity"}
