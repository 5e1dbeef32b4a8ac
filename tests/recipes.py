"""Cut-down recipes: every component of the quickstart at the smallest size that still goes through all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from study.spec import BenchmarkPlan, Rung, Size, Space, Study
from trainables.encoder import Shape
from trainables.engine import Resources
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.intermediate import MicroTopic
from trainables.tasks.micro.tagging import MicroTagging
from trainables.training import Training

LANGUAGES = ("en", "de", "zh")
SMALL: dict[str, Any] = {"train_size": 96, "dev_size": 24, "test_size": 16}


def tiny() -> Study:
    """One inline size and one on two Ray Train workers."""
    pretraining = Training(learning_rate=2e-3, steps=6, batch_size=2, seed=0)
    tuning = Training(learning_rate=1e-3, steps=6, batch_size=16, seed=0)
    return Study(
        name="tiny",
        version=1,
        seed=0,
        corpus=MicroCorpus(languages=LANGUAGES, sentences=200),
        vocabulary_size=600,
        group_pairs=8,
        sizes=(
            Size("1x32", Rung(Shape(1, 32), pretraining), Resources()),
            Size("1x64", Rung(Shape(1, 64), pretraining), Resources(workers=2, zero_stage=2)),
        ),
        targets=(
            MicroTagging(languages_=LANGUAGES, **SMALL),
            MicroEntailment(languages_=LANGUAGES, **SMALL),
            MicroBitext(languages_=LANGUAGES, **SMALL),
        ),
        space=Space((MicroTopic(**SMALL),), lr_intermediate=(1e-3,), lr_target=(1e-3, 3e-4)),
        intermediate_tuning=tuning,
        tuning=tuning,
        trials=3,
        repeats=None,
        benchmark=BenchmarkPlan(("fp32",), window_s=0.5, repeats=1, scenarios=("SingleStream", "Offline")),
    )


def inline() -> Study:
    """The inline size alone."""
    return dataclasses.replace(tiny(), name="inline", sizes=tiny().sizes[:1])


def diverging() -> Study:
    """Its intermediate training diverges at the default learning rate; what needs no intermediate does not."""
    study = inline()
    space = dataclasses.replace(study.space, lr_intermediate=(1e30,), lr_target=(1e-3,))
    return dataclasses.replace(study, name="diverging", space=space, trials=2)


def not_a_study() -> str:
    """What `run` must refuse."""
    return "nothing"
