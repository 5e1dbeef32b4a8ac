"""The whole study in minutes on two CPU cores: MicroXTREME, a ladder of three sizes, and every real component.

python -m study run quickstart
python -m study run quickstart_mixtures     # its smallest size, with mixtures of intermediate tasks
"""

from __future__ import annotations

import dataclasses

from study.spec import (
    BenchmarkPlan,
    LadderEncoder,
    Mixture,
    Precision,
    Resources,
    Shape,
    Size,
    Space,
    Study,
    Training,
    cpu_precision,
)
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroOrdering, MicroParaphrase, MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.micro.mention import MicroMention
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging

# Twelve languages of nine families in six scripts. All 46 that CLDR covers work too, but take longer to pre-train.
LANGUAGES = ("en", "de", "es", "fi", "tr", "ru", "ar", "hi", "zh", "ja", "id", "sw")


def quickstart(seed: int = 0) -> Study:
    """Three sizes, five targets, four intermediate tasks and none, one seed."""
    precision = cpu_precision().value
    return Study(
        name="quickstart",
        version=1,
        seed=seed,
        corpus=MicroCorpus(languages=LANGUAGES, sentences=5000),
        vocabulary_size=4000,
        group_pairs=32,
        sizes=(
            _size("2x128", Shape(2, 128), 3e-3, precision, seed, Resources(workers=1)),
            _size("3x160", Shape(3, 160), 2.5e-3, precision, seed, Resources(workers=1)),
            # The largest runs on two Ray Train workers with ZeRO-2, so that the study exercises both launchers.
            _size("4x192", Shape(4, 192), 2e-3, precision, seed, Resources(workers=2, zero_stage=2), trials=5),
        ),
        targets=tuple(
            task(languages_=LANGUAGES, test_size=32)
            for task in (MicroTagging, MicroMention, MicroFollows, MicroSpan, MicroBitext)
        ),
        space=Space(
            intermediates=(MicroParaphrase(), MicroTopic(), MicroOddOneOut(), MicroOrdering()),
            lr_intermediate=(3e-4, 1e-4, 1e-3),
            lr_target=(2e-3, 1e-3),
        ),
        intermediate_tuning=Training(learning_rate=3e-4, steps=40, batch_size=32, seed=seed, precision=precision),
        tuning=Training(learning_rate=2e-3, steps=40, batch_size=32, seed=seed, precision=precision),
        trials=6,
        repeats=None,  # they take minutes; `--repeats 3` adds them, also to a finished run
        # Measured once, without Server: its p99 takes 662 queries at every rate tried, and the whole study has ten minutes.
        benchmark=BenchmarkPlan(
            ("fp32", "bf16" if precision == "bf16_mixed" else "compiled"),
            window_s=2.0,
            repeats=1,
            scenarios=("SingleStream", "Offline"),
        ),
    )


def quickstart_mixtures(seed: int = 0) -> Study:
    """The smallest size with an intermediate task alone, mixed with another, and mixed with masked language modelling.

    The last of these continues pre-training on text of the target languages while the English task is learned.
    """
    study = quickstart(seed)
    text = MicroMaskedLm(languages_=LANGUAGES)
    topic, paraphrase = MicroTopic(), MicroParaphrase()
    return dataclasses.replace(
        study,
        name="quickstart_mixtures",
        sizes=tuple(dataclasses.replace(size, trials=None) for size in study.sizes[:1]),
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


def _size(
    name: str,
    shape: Shape,
    rate: float,
    precision: Precision,
    seed: int,
    resources: Resources,
    trials: int | None = None,
) -> Size:
    """A size of the ladder: data and steps are the same for all, the learning rate falls with the width.

    A batch counts groups of sentence pairs.
    """
    pretraining = Training(learning_rate=rate, steps=200, batch_size=2, seed=seed, precision=precision)
    return Size(name, LadderEncoder(shape, pretraining), resources, trials)
