"""Cut-down recipes: every component of the quickstart, at the smallest size that still exercises them all."""

from __future__ import annotations

import dataclasses
from typing import Any

from study.spec import BenchmarkPlan, Cascade, LadderEncoder, Resources, Shape, Size, Space, Study, Training
from trainables.stages.finetune import FineTune
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.intermediate import MicroTopic
from trainables.tasks.micro.tagging import MicroTagging

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
            Size("1x32", LadderEncoder(Shape(1, 32), pretraining), Resources()),
            Size("1x64", LadderEncoder(Shape(1, 64), pretraining), Resources(workers=2, zero_stage=2), trials=2),
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
    """The inline size alone, without a benchmark."""
    study = tiny()
    benchmark = dataclasses.replace(study.benchmark, variants=())
    return dataclasses.replace(study, name="inline", sizes=study.sizes[:1], benchmark=benchmark)


def cascading() -> Study:
    """Two inline sizes, timed early and served together.

    The smaller one learns nothing, so neither answers everything; the larger one is sixteen times as deep, so it is slower on a
    busy machine too.
    """
    study = tiny()
    small, large = (dataclasses.replace(size, resources=Resources(), trials=1) for size in study.sizes)
    pretraining = Training(learning_rate=2e-3, steps=6, batch_size=2, seed=0)
    large = dataclasses.replace(large, name="16x64", encoder=LadderEncoder(Shape(16, 64), pretraining))
    benchmark = dataclasses.replace(
        study.benchmark, scenarios=("SingleStream",), early=True, cascade=Cascade(loss=10.0)
    )
    return dataclasses.replace(
        study,
        name="cascading",
        sizes=(dataclasses.replace(small, rate_factor=1e-6), large),
        targets=study.targets[:1],
        space=dataclasses.replace(study.space, intermediates=()),
        tuning=dataclasses.replace(study.tuning, steps=60),
        benchmark=benchmark,
    )


def published_study(*sizes: Size) -> Study:
    """The tiny study with published encoders, and nothing to pre-train any with."""
    return dataclasses.replace(tiny(), sizes=sizes, corpus=None, vocabulary_size=None, group_pairs=None)


def diverging() -> Study:
    """A study whose intermediate training diverges at the default learning rate, and so does a second size's pre-training."""
    study = inline()
    pretraining = Training(learning_rate=1e30, steps=6, batch_size=2, seed=0)
    sizes = (*study.sizes, Size("1x64", LadderEncoder(Shape(1, 64), pretraining), Resources()))
    space = dataclasses.replace(study.space, lr_intermediate=(1e30,), lr_target=(1e-3,))
    return dataclasses.replace(study, name="diverging", sizes=sizes, space=space, trials=2)


def on_two_kinds() -> Study:
    """Two sizes of two workers, each on nodes with another kind of accelerator; CPUs do the computing.

    Target trainings take long enough to be interrupted, with a checkpoint every second.
    """
    study = tiny()
    sizes = tuple(
        dataclasses.replace(
            size, resources=Resources(workers=2, zero_stage=stage, accelerator_type=kind, checkpoint_every_s=1.0)
        )
        for size, stage, kind in zip(study.sizes, (2, 3), ("A100", "T4"), strict=True)
    )
    tuning = dataclasses.replace(study.tuning, steps=300)
    return dataclasses.replace(
        study, name="on_two_kinds", sizes=sizes, trials=2, targets=study.targets[:1], tuning=tuning
    )


def interruptible(steps: int = 150) -> FineTune:
    """A target training that takes long enough to lose a node in the middle."""
    study = tiny()
    model = study.chain(study.sizes[0], study.space.defaults()[0])[0].model
    assert isinstance(model, FineTune)
    return dataclasses.replace(model, training=dataclasses.replace(model.training, steps=steps))


def not_a_study() -> str:
    """A function that `run` must refuse as a recipe."""
    return "nothing"
