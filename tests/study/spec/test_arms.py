"""Arms: what an intermediate choice trains, and what its targets start from."""

from __future__ import annotations

import dataclasses
from io import StringIO
from typing import ClassVar

import pytest
from rich.console import Console

from study.planning.plan import render_plan
from study.search.trial_store import distributions, parameters
from study.spec import Arm, EarlyStopping, InvalidStudy, Joint, Mixture, Size, Space, Study
from study.spec.arms import NoIntermediate, Sequential, SequentialMixture, arm_of
from study.spec.data_check import all_tasks, arm_records
from study.spec.space import Choice
from study.spec.validation import study_errors
from tests.support import recipes
from tests.support.recipes import SMALL
from trainables.stages.base import Root
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.joint import FineTuneJoint
from trainables.stages.mixture import FineTuneMixture
from trainables.tasks.base import Task
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroOrdering, MicroParaphrase, MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.translated import in_languages

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
    with pytest.raises(InvalidStudy, match=r"space\.intermediates: micro_tagging"):
        study_with(Direct(target))


def test_a_joint_arm_trains_each_target_with_the_task_for_the_steps_of_both() -> None:
    study = study_with(TOPIC, Joint(TOPIC))
    study = dataclasses.replace(
        study,
        intermediate_tuning=dataclasses.replace(study.intermediate_tuning, steps=40, max_length=64, batch_size=32),
        tuning=dataclasses.replace(study.tuning, steps=10),
    )
    size, (_, topic, joint) = study.sizes[0], study.space.defaults()
    assert joint == Choice("joint_micro_topic", None, 1e-3)
    tagging, entailment, bitext = study.chain(size, dataclasses.replace(joint, epochs=2.0, seed=7))
    for evaluate in (tagging, entailment):
        stage = evaluate.model
        assert isinstance(stage, FineTuneJoint)
        assert stage.base == study.encoder_stage(size)
        assert stage.training.steps == 40 + 2 * 10
        assert (stage.training.learning_rate, stage.training.seed, stage.training.batch_size) == (1e-3, 7, 16)
        assert stage.parts == ((TOPIC.for_training(), 64), (evaluate.task.for_training(), 128))
    assert tagging.model.label == "target-micro_tagging-with-micro_topic-1x32"
    # Retrieval has no training of its own to be joined with: it is scored after the task alone, as in the sequential arm.
    assert bitext.model == study.base(size, dataclasses.replace(topic, seed=7))
    # The tokenised tables are those of the sequential arm.
    sequential = study.chain(size, topic)[0].model
    assert isinstance(sequential, FineTune)
    assert set(tagging.model.parents) >= {sequential.features}


def test_a_joint_arm_trains_prerequisites_first_and_keeps_their_head() -> None:
    study = study_with(Joint(TOPIC))
    first, second = (MicroOddOneOut(**SMALL), MicroOrdering(**SMALL))

    @dataclasses.dataclass(frozen=True)
    class AfterOthers(MicroTagging):
        name = "after_others"

        @property
        def prerequisites(self) -> tuple[Task, ...]:
            return (first, second)

    target = AfterOthers(languages_=recipes.LANGUAGES, **SMALL)
    study = dataclasses.replace(study, targets=(target,))
    size, (none, joint) = study.sizes[0], study.space.defaults()
    (alone,), (together,) = study.chain(size, none), study.chain(size, joint)
    assert isinstance(alone.model, FineTune)
    assert isinstance(together.model, FineTuneJoint)
    assert alone.model.keeps_head
    assert together.model.keeps_head
    assert together.model.base == alone.model.base  # the same stage, trained once
    assert not study_errors(study)


def test_joint_training_refuses_what_it_cannot_train() -> None:
    text = MicroMaskedLm(languages_=("de",), train_size=40)
    with pytest.raises(InvalidStudy, match="micro_masked_lm has no labels and is trained as one of the tasks"):
        study_with(Joint(text))
    assert study_with(Joint(Mixture("topic_mlm", (TOPIC, text)))).space.arms[0].masks
    study = study_with(Joint(TOPIC))
    stopping = dataclasses.replace(study.tuning, early_stopping=EarlyStopping(2, 1))
    with pytest.raises(InvalidStudy, match="joint_micro_topic: micro_tagging has early stopping"):
        dataclasses.replace(study, tuning=stopping)
    with pytest.raises(InvalidStudy, match="joint_micro_topic: micro_topic has early stopping"):
        dataclasses.replace(study, intermediate_tuning=stopping)

    @dataclasses.dataclass(frozen=True)
    class Grouped(MicroOrdering):
        group: ClassVar[int] = 2

    with pytest.raises(InvalidStudy, match="micro_ordering has prerequisites or groups and cannot be trained together"):
        study_with(Joint(Grouped(**SMALL)))


def test_the_plan_says_what_a_joint_arm_does() -> None:
    study = study_with(TOPIC, Joint(TOPIC))
    console = Console(width=220, record=True, file=StringIO())
    console.print(render_plan(study))
    text = console.export_text()
    assert (
        "joint_micro_topic: together with each target, at the target's rate; targets without training are scored"
        in text
    )
    assert "target-micro_tagging-with-micro_topic" in text


def test_languages_that_a_member_has_labels_in_are_recorded_and_planned() -> None:
    text = MicroMaskedLm(languages_=("de", "zh"), train_size=40)
    german = in_languages(PARAPHRASE, ("en", "de"))
    study = study_with(
        Mixture("with_text", (TOPIC, text)), Sequential(german), Joint(in_languages(TOPIC, ("zh",))), PARAPHRASE
    )
    assert arm_records(study) == {
        "with_text": {"members": ["micro_topic", "micro_masked_lm"], "languages": []},  # its text has no labels
        "micro_paraphrase_in_en_de": {"members": ["micro_paraphrase_in_en_de"], "languages": ["de"]},
        "joint_micro_topic_in_zh": {"members": ["micro_topic_in_zh"], "languages": ["zh"]},
        "micro_paraphrase": {"members": ["micro_paraphrase"], "languages": []},
    }
    console = Console(width=250, record=True, file=StringIO())
    console.print(render_plan(study))
    text_of_plan = console.export_text()
    assert "micro_paraphrase_in_en_de (en, de): not zero-shot in de" in text_of_plan
    assert "scored after it alone; not zero-shot in zh" in text_of_plan
