"""Pre-trains three sizes of MicroXTREME's ladder for long, half of the steps translation language modelling.

python -m study run micro_ladder

`python -m trainables.stages.shipping OUTPUT LADDER` copies its encoders into the package, for recipes to import with
`shipped_encoder`.
"""

from __future__ import annotations

from study.recipes.quickstart import LANGUAGES
from study.spec import BenchmarkPlan, LadderEncoder, Resources, Shape, Size, Space, Study, Training
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.mention import MicroMention
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging

STEPS = 4000


def micro_ladder(seed: int = 0) -> Study:
    """Three sizes and no intermediate task: one trial per size shows what its encoder is worth. Nothing is timed."""
    return Study(
        name="micro_ladder",
        version=1,
        seed=seed,
        corpus=MicroCorpus(languages=LANGUAGES, sentences=20_000),
        vocabulary_size=4000,
        group_pairs=32,
        translation_share=0.5,
        sizes=(_size(1, 64, 4e-3, seed), _size(2, 128, 3e-3, seed), _size(4, 192, 1.5e-3, seed)),
        targets=tuple(
            task(languages_=LANGUAGES) for task in (MicroTagging, MicroMention, MicroFollows, MicroSpan, MicroBitext)
        ),
        space=Space(intermediates=(), lr_intermediate=(3e-4,), lr_target=(1e-3,)),
        intermediate_tuning=Training(learning_rate=3e-4, steps=100, batch_size=32, seed=seed),
        tuning=Training(learning_rate=1e-3, steps=100, batch_size=32, seed=seed),
        trials=1,
        repeats=None,
        benchmark=BenchmarkPlan(variants=()),
    )


def _size(layers: int, width: int, learning_rate: float, seed: int) -> Size:
    """One size. A fixed precision, so that the stage is the same on every machine; wider encoders need smaller rates."""
    pretraining = Training(
        learning_rate=learning_rate, steps=STEPS, batch_size=2, seed=seed, precision="bf16_mixed", max_length=64
    )
    # Both groups of a batch, of 64 rows each, in one pass.
    resources = Resources(micro_batch=128)
    return Size(f"{layers}x{width}", LadderEncoder(Shape(layers, width), pretraining), resources)
