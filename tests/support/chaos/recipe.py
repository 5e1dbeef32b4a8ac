"""The studies that are disturbed: the shipped ladder, a few steps, and no score that depends on the order of the trials."""

from __future__ import annotations

import dataclasses
import os

from study.spec import BenchmarkPlan, Resources, Size, Space, Study, Training
from tests.support.chaos.rounds import STUDY_NAME
from tests.support.recipes import LANGUAGES, SMALL
from trainables.models.published_encoder import shipped_encoder
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.intermediate import MicroTopic
from trainables.tasks.micro.tagging import MicroTagging


def tiny() -> Study:
    """Trials in their own processes, and one on a Ray Train group of two workers."""
    targets = (MicroTagging(languages_=LANGUAGES, **SMALL), MicroEntailment(languages_=LANGUAGES, **SMALL))
    training = Training(learning_rate=1e-3, steps=40, batch_size=16, seed=0)
    often = 0.3  # seconds between checkpoints, so that a killed stage resumes from one
    alone = Resources(checkpoint_every_s=often)
    group = Resources(workers=2, zero_stage=2, checkpoint_every_s=often)
    return Study(
        name=os.environ.get(STUDY_NAME, "tiny"),
        version=1,
        seed=0,
        sizes=(
            Size("2x128", shipped_encoder("micro-ladder", "2x128"), alone),
            Size("1x64", shipped_encoder("micro-ladder", "1x64"), group, trials=1, intermediates=()),
        ),
        targets=targets,
        space=Space((MicroTopic(**SMALL),), lr_intermediate=(5e-4,), lr_target=(1e-3, 5e-4)),
        intermediate_tuning=training,
        tuning=training,
        trials=4,  # every choice of the space, in whatever order the search takes them
        first_rung=len(targets),  # none is stopped early: that would depend on the order
        repeats=None,
        benchmark=BenchmarkPlan(variants=()),
    )


def inline() -> Study:
    """The size without a group, on half as many choices."""
    study = tiny()
    space = dataclasses.replace(study.space, lr_target=(1e-3,))
    return dataclasses.replace(study, sizes=study.sizes[:1], space=space, trials=2)
