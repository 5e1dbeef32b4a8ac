"""The whole study in minutes on two CPU cores: MicroXTREME, the shipped ladder of three sizes, and every real component.

python -m study run quickstart
python -m study run quickstart_mixtures     # its middle size, with mixtures of intermediate tasks
python -m study run quickstart_cascade      # two sizes, and both served together
"""

from __future__ import annotations

import dataclasses

from study.spec import (
    BenchmarkPlan,
    Cascade,
    Mixture,
    Resources,
    Size,
    Space,
    Study,
    Training,
    cpu_precision,
)
from trainables.models.published_encoder import shipped_encoder
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroOrdering, MicroParaphrase, MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.micro.mention import MicroMention
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging

# Twelve languages of nine families in six scripts, on which the shipped ladder was pre-trained. CLDR covers 46 of XTREME-R's.
LANGUAGES = ("en", "de", "es", "fi", "tr", "ru", "ar", "hi", "zh", "ja", "id", "sw")


def quickstart(seed: int = 0) -> Study:
    """Three sizes, five targets, four intermediate tasks and none, one seed."""
    precision = cpu_precision().value
    return Study(
        name="quickstart",
        version=2,
        seed=seed,
        sizes=(
            # Two Ray Train workers with ZeRO-2, so that the study exercises both launchers. To start them takes longer than to
            # train this size, so it runs a single trial.
            _size("1x64", 2.0, Resources(workers=2, zero_stage=2), intermediates=(), trials=1),
            # Encoders this small train whole batches at once: 32 examples of up to three rows.
            _size("2x128", 1.0, Resources(micro_batch=96)),
            _size("4x192", 0.5, Resources(micro_batch=96), intermediates=("micro_topic",), trials=2),
        ),
        targets=tuple(
            task(languages_=LANGUAGES, test_size=48)
            for task in (MicroTagging, MicroMention, MicroFollows, MicroSpan, MicroBitext)
        ),
        space=Space(
            intermediates=(MicroParaphrase(), MicroTopic(), MicroOddOneOut(), MicroOrdering()),
            lr_intermediate=(5e-4, 2e-4, 1e-3),
            lr_target=(1e-3, 2e-3),
        ),
        intermediate_tuning=Training(learning_rate=5e-4, steps=60, batch_size=32, seed=seed, precision=precision),
        tuning=Training(learning_rate=1e-3, steps=80, batch_size=32, seed=seed, precision=precision),
        trials=6,
        repeats=None,  # they take minutes; `--repeats 3` adds them, also to a finished run
        # Measured once, without Server: its p99 takes 662 queries at every rate tried, and the whole study has minutes.
        benchmark=BenchmarkPlan(
            ("fp32", "bf16" if precision == "bf16_mixed" else "compiled"),
            window_s=2.0,
            repeats=1,
            scenarios=("SingleStream", "Offline"),
        ),
    )


def quickstart_mixtures(seed: int = 0) -> Study:
    """The middle size with an intermediate task alone, mixed with another, and mixed with masked language modelling.

    The last of these continues pre-training on text of the target languages while the English task is learned.
    """
    study = quickstart(seed)
    text = MicroMaskedLm(languages_=LANGUAGES)
    topic, paraphrase = MicroTopic(), MicroParaphrase()
    return dataclasses.replace(
        study,
        name="quickstart_mixtures",
        sizes=(study.size("2x128"),),
        space=dataclasses.replace(
            study.space,
            intermediates=(
                topic,
                Mixture("topic_paraphrase", (topic, paraphrase)),
                Mixture("topic_masked_lm", (topic, text)),
            ),
        ),
        trials=5,
    )


def quickstart_cascade(seed: int = 0) -> Study:
    """The middle and the largest size without intermediate tasks, alone and as a cascade, under load too.

    One trial each: what a cascade is worth depends on both models' answers, not on what was searched. Their speeds are measured
    before the search as well.
    """
    study = quickstart(seed)
    benchmark = dataclasses.replace(
        study.benchmark,
        variants=("fp32",),
        scenarios=("SingleStream", "Server", "Offline"),
        early=True,
        cascade=Cascade(loss=1.0),  # dev sets are small: one point is the least that they tell
    )
    return dataclasses.replace(
        study,
        name="quickstart_cascade",
        version=1,
        sizes=tuple(dataclasses.replace(study.size(name), intermediates=(), trials=1) for name in ("2x128", "4x192")),
        benchmark=benchmark,
    )


def _size(
    name: str,
    rate_factor: float,
    resources: Resources,
    *,
    intermediates: tuple[str, ...] | None = None,
    trials: int | None = None,
) -> Size:
    """A size of the shipped ladder; wider encoders need smaller rates."""
    return Size(name, shipped_encoder("micro-ladder", name), resources, trials, rate_factor, intermediates)
