"""Studies with a masked language modelling task: what is refused, and what the plan shows."""

from __future__ import annotations

import dataclasses
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from study.planning import memory
from study.planning.architecture import architecture_of
from study.planning.plan import render_plan
from study.planning.stages import Load
from study.spec import InvalidStudy, Size, Space, Study
from study.spec.data_check import check_data
from tests.support import recipes
from tests.support.recipes import SMALL
from tests.trainables.tasks.test_masked_training import BASE, MIXTURE, TEXT, TRAINING
from trainables.models.catalogue import published
from trainables.resources import Resources
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.stages.mixture import FineTuneMixture
from trainables.tasks.micro.intermediate import MicroTopic


def study_with(*intermediates: Any, **changes: Any) -> Study:
    study = recipes.inline()
    space = Space(intermediates, lr_intermediate=(1e-3,), lr_target=(1e-3,))
    return dataclasses.replace(study, space=space, trials=1 + len(intermediates), **changes)


def test_it_trains_in_a_mixture_alone() -> None:
    with pytest.raises(InvalidStudy, match="micro_masked_lm has no labels and is trained as one of the tasks"):
        study_with(TEXT)
    with pytest.raises(InvalidStudy, match="targets: micro_masked_lm is an intermediate task"):
        study_with(MIXTURE, targets=(*recipes.inline().targets, TEXT))
    with pytest.raises(ValueError, match="micro_masked_lm has no labels: train it as one of the tasks"):
        FineTune(BASE, TEXT, TRAINING)
    with pytest.raises(ValueError, match="micro_masked_lm has no labels and cannot be scored"):
        Evaluate(BASE, TEXT)
    with pytest.raises(ValueError, match="trained and never scored"):
        TEXT.chance()
    assert isinstance(
        study_with(MIXTURE).base(recipes.inline().sizes[0], study_with(MIXTURE).space.defaults()[1]), FineTuneMixture
    )


def test_an_encoder_without_a_mask_token_and_a_trimmed_table_are_refused() -> None:
    mt5 = Size("m", published("mt5-small"), Resources())
    changes: dict[str, Any] = {"corpus": None, "vocabulary_size": None, "group_pairs": None}
    with pytest.raises(InvalidStudy, match=r"sizes\[m\], topic_mlm: mt5 has no mask token"):
        study_with(MIXTURE, sizes=(mt5,), **changes)
    study_with(MIXTURE, sizes=(dataclasses.replace(mt5, encoder=published("mbert")),), **changes)
    trims = dataclasses.replace(recipes.inline().sizes[0], resources=Resources(trim_vocabulary=True))
    with pytest.raises(InvalidStudy, match=r"sizes\[1x32\], topic_mlm: trim_vocabulary"):
        study_with(MIXTURE, sizes=(trims,))
    study_with(MicroTopic(**SMALL), sizes=(trims,))


def test_the_plan_shows_what_is_mixed_and_what_scores_cost() -> None:
    study = study_with(MIXTURE, MicroTopic(**SMALL))
    console = Console(width=200, record=True, file=StringIO())
    console.print(render_plan(study))
    text = console.export_text()
    assert "micro_topic + micro_masked_lm (de, zh)" in text
    assert "intermediate-topic_mlm" in text
    messages: list[str] = []
    check_data(study, say=messages.append)
    assert messages == []
    architecture = architecture_of(study, study.sizes[0])
    training, resources = study.intermediate_tuning, study.sizes[0].resources
    plain, masked = (
        memory.activations_gb(architecture, resources, Load(training, masked=one)) for one in (False, True)
    )
    # 16 rows of 128 tokens, 15% of them with scores over a vocabulary of 600 at 10 bytes.
    assert (masked - plain) * 1e9 == pytest.approx(16 * 128 * 0.15 * 600 * 10)
