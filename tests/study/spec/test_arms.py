"""Arms: what an intermediate choice trains, and what its targets start from."""

from __future__ import annotations

import dataclasses

import pytest

from study.search.trial_store import distributions, parameters
from study.spec import Arm, InvalidStudy, Mixture, Size, Space, Study
from study.spec.arms import NoIntermediate, Sequential, SequentialMixture, arm_of
from study.spec.data_check import all_tasks
from study.spec.space import Choice
from tests.support import recipes
from tests.support.recipes import SMALL
from trainables.stages.base import Root
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.mixture import FineTuneMixture
from trainables.tasks.base import Task
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic

TOPIC, PARAPHRASE = MicroTopic(**SMALL), MicroParaphrase(**SMALL)


@dataclasses.dataclass(frozen=True)
class Direct(Arm):
    """An arm of a test: reads a task, and leaves the encoder as it is."""

    task: Task
    uses_rate = False
    note = "for a test"

    @property
    def name(self) -> str:
        return f"direct_{self.task.name}"

    @property
    def members(self) -> tuple[Task, ...]:
        return (self.task,)

    @property
    def tuned(self) -> tuple[Task | Mixture, ...]:
        return ()

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        return study.encoder_stage(size, trained=trained)


def study_with(*intermediates: Task | Mixture | Arm) -> Study:
    study = recipes.inline()
    space = Space(intermediates, lr_intermediate=(1e-3, 1e-4), lr_target=(1e-3,))
    return dataclasses.replace(study, space=space, trials=1 + len(intermediates))


def test_recipes_list_tasks_mixtures_and_arms() -> None:
    mixture = Mixture("both", (TOPIC, PARAPHRASE))
    study = study_with(TOPIC, mixture, Direct(PARAPHRASE))
    assert study.space.arms == (Sequential(TOPIC), SequentialMixture(mixture), Direct(PARAPHRASE))
    assert study.space.names == ("none", "micro_topic", "both", "direct_micro_paraphrase")
    assert study.space.arm("none") == NoIntermediate()
    assert arm_of(Sequential(TOPIC)) == Sequential(TOPIC)
    with pytest.raises(KeyError):
        study.space.arm("absent")
    assert [task.name for task in all_tasks(study)][:2] == ["micro_topic", "micro_paraphrase"]


def test_targets_start_from_the_encoder_of_their_arm() -> None:
    mixture = Mixture("both", (TOPIC, PARAPHRASE))
    study = study_with(TOPIC, mixture, Direct(PARAPHRASE))
    size = study.sizes[0]
    root = study.encoder_stage(size)
    encoders = [study.base(size, choice) for choice in study.space.defaults()]
    assert encoders[0] == encoders[3] == root
    assert isinstance(encoders[1], FineTune)
    assert isinstance(encoders[2], FineTuneMixture)
    assert encoders[1].base == encoders[2].base == root
    for choice, encoder in zip(study.space.defaults(), encoders, strict=True):
        tagging, entailment, bitext = study.chain(size, choice)
        for evaluate in (tagging, entailment):
            assert isinstance(evaluate.model, FineTune)
            assert evaluate.model.base == encoder
        assert bitext.model == encoder  # scored without training


def test_an_arm_without_a_rate_has_none_in_its_choices_and_in_optuna() -> None:
    space = study_with(TOPIC, Direct(PARAPHRASE)).space
    rates = {(choice.intermediate, choice.lr_intermediate) for choice in space.grid() or ()}
    assert rates == {
        *(("none", None), ("micro_topic", 1e-3), ("micro_topic", 1e-4)),
        ("direct_micro_paraphrase", None),
    }
    none, topic, direct = space.defaults()
    for choice, has_rate in ((none, False), (topic, True), (direct, False)):
        assert ("lr_intermediate" in parameters(choice)) == has_rate
        assert ("lr_intermediate" in distributions(space, choice)) == has_rate


def test_a_sequential_choice_without_a_rate_is_refused() -> None:
    study = study_with(TOPIC)
    with pytest.raises(ValueError, match="micro_topic: the choice has no lr_intermediate"):
        study.base(study.sizes[0], Choice("micro_topic", None, 1e-3))


def test_an_arm_s_faults_are_the_study_s() -> None:
    target = recipes.inline().targets[0]
    with pytest.raises(InvalidStudy, match="space.intermediates: micro_tagging is a target"):
        study_with(Direct(target))
