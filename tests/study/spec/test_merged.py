"""Merged arms, and a task at a weight decay of its own."""

from __future__ import annotations

import dataclasses
import math

import pytest

from study.planning.stages import stages_of
from study.spec import InvalidStudy, Merged, Mixture, Sequential, Space, Study, merged
from tests.support import recipes
from tests.support.recipes import SMALL
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.merge import MergeEncoders
from trainables.store.fingerprint import fingerprint
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.squad import Squad
from trainables.tasks.micro.intermediate import MicroOrdering, MicroParaphrase, MicroTopic

TOPIC, PARAPHRASE, ORDERING = MicroTopic(**SMALL), MicroParaphrase(**SMALL), MicroOrdering(**SMALL)
MIXTURE = Mixture("both", (TOPIC, PARAPHRASE))


def study_with(*intermediates: object, **changes: object) -> Study:
    study = recipes.inline()
    space = Space(intermediates, lr_intermediate=(1e-3, 1e-4), lr_target=(1e-3,))  # type: ignore[arg-type]
    return dataclasses.replace(study, space=space, trials=1 + len(intermediates), **changes)  # type: ignore[arg-type]


def trained(study: Study, *names: str) -> set[str]:
    """The fingerprints of all trainings of these default cells."""
    size, defaults = study.sizes[0], {choice.intermediate: choice for choice in study.space.defaults()}
    stages = (stage for name in names for leaf in study.chain(size, defaults[name]) for stage in stages_of(leaf))
    return {fingerprint(stage) for stage in stages if isinstance(stage, Tuned)}


def test_a_merge_starts_from_the_stages_that_its_parts_train_anyway() -> None:
    study = study_with(TOPIC, MIXTURE, *merged("merged", (TOPIC, MIXTURE), scales=(1.0, 0.5)))
    assert study.space.names == ("none", "micro_topic", "both", "merged", "merged-x0.5")
    size = study.sizes[0]
    _, topic, both, whole, half = (study.base(size, choice) for choice in study.space.defaults())
    assert isinstance(whole, MergeEncoders)
    assert isinstance(half, MergeEncoders)
    assert whole.encoders == half.encoders == (topic, both)
    assert (whole.weights, half.weights) == ((0.5, 0.5), (0.25, 0.25))
    assert whole.base == study.encoder_stage(size)
    # Two targets are trained after each: beyond them a merge trains nothing that the study lacks.
    parts = trained(study, "none", "micro_topic", "both")
    assert len(parts) == 2 + 3 + 3
    assert len(trained(study, "merged", "merged-x0.5") - parts) == 2 + 2


def test_the_parts_of_a_merge_have_the_trial_s_rate_and_seed() -> None:
    study = study_with(TOPIC, PARAPHRASE, Merged("merged", (TOPIC, PARAPHRASE)))
    size, choice = study.sizes[0], study.space.defaults()[3]
    changed = dataclasses.replace(choice, lr_intermediate=1e-4, seed=7)
    merge = study.base(size, changed)
    assert isinstance(merge, MergeEncoders)
    assert {(stage.training.learning_rate, stage.training.seed) for stage in merge.encoders} == {(1e-4, 7)}
    assert merge.encoders[0] == study.base(size, dataclasses.replace(changed, intermediate="micro_topic"))


def test_what_a_merge_lacks_is_named() -> None:
    arm = Merged("merged", (TOPIC, PARAPHRASE))
    with pytest.raises(
        InvalidStudy, match="merged: merges micro_paraphrase, which is not an intermediate choice of this"
    ):
        study_with(TOPIC, arm)
    with pytest.raises(
        InvalidStudy, match="merged: merges two or more different choices, not micro_topic, micro_topic"
    ):
        study_with(TOPIC, Merged("merged", (TOPIC, TOPIC)))
    with pytest.raises(
        InvalidStudy, match="again: merges merged, which is not a task or a mixture that is trained before"
    ):
        study_with(TOPIC, PARAPHRASE, arm, Merged("again", (TOPIC, arm)))
    with pytest.raises(InvalidStudy, match="scale 0 must be positive and finite"):
        study_with(TOPIC, PARAPHRASE, dataclasses.replace(arm, scale=0))
    with pytest.raises(InvalidStudy, match="scale nan must be"):
        study_with(TOPIC, PARAPHRASE, dataclasses.replace(arm, scale=math.nan))


def test_a_size_tries_a_merge_only_with_its_parts() -> None:
    study = study_with(TOPIC, PARAPHRASE, Merged("merged", (TOPIC, PARAPHRASE)))
    one = dataclasses.replace(study.sizes[0], intermediates=("micro_topic", "merged"))
    with pytest.raises(
        InvalidStudy, match=r"sizes\[1x32\]: merged merges micro_paraphrase, which this size does not try"
    ):
        dataclasses.replace(study, sizes=(one,))
    without = dataclasses.replace(one, intermediates=("micro_topic",))
    assert dataclasses.replace(study, sizes=(without,)).space_of(without).names == ("none", "micro_topic")


def test_a_merge_reads_what_its_parts_read() -> None:
    arm = Merged("merged", (MIXTURE, TOPIC, ORDERING))
    assert [task.name for task in arm.members] == ["micro_topic", "micro_paraphrase", "micro_ordering"]
    assert Merged("merged", (Mnli(), Squad())).reads == Mnli.reads | Squad.reads


def test_an_intermediate_task_at_its_own_weight_decay_is_a_choice_of_its_own() -> None:
    study = study_with(TOPIC, Sequential(TOPIC, weight_decay=0.0))
    assert study.space.names == ("none", "micro_topic", "micro_topic-decay0")
    size = study.sizes[0]
    _, usual, without = (study.base(size, choice) for choice in study.space.defaults())
    assert isinstance(usual, FineTune)
    assert without == dataclasses.replace(usual, training=dataclasses.replace(usual.training, weight_decay=0.0))
    target = study.chain(size, study.space.defaults()[2])[0].model
    assert isinstance(target, FineTune)
    assert (target.base, target.training.weight_decay) == (without, study.tuning.weight_decay)


@pytest.mark.parametrize(
    ("decay", "error"), [(0.01, "is that of the study: use the task"), (-1.0, "not negative"), (math.inf, "finite")]
)
def test_a_weight_decay_that_is_none_is_refused(decay: float, error: str) -> None:
    with pytest.raises(InvalidStudy, match=error):
        study_with(TOPIC, Sequential(TOPIC, weight_decay=decay))


def test_a_merge_of_trainings_without_decay() -> None:
    tasks = (Sequential(TOPIC, weight_decay=0.0), Sequential(PARAPHRASE, weight_decay=0.0))
    study = study_with(*tasks, Merged("merged", tasks))
    merge = study.base(study.sizes[0], study.space.defaults()[3])
    assert isinstance(merge, MergeEncoders)
    assert {stage.training.weight_decay for stage in merge.encoders} == {0.0}
