"""Does someone else's multi-task training do for transfer what an intermediate task does? mT0's encoders after mT5's.

python -m study run mt0_vs_mt5 [--data-root DIR]

mT0 is mT5 trained further on many tasks at once (Muennighoff et al. 2022, 2211.01786): an intermediate choice at every size up
to 13 billion parameters that need not be trained. Each size tries it beside MNLI, SQuAD and none, so that its gain is paired
with them in every table.

Three of the targets are not in mT0's training data, by the data's card: UDPOS, PAN-X and XNLI. The others are, in languages
that they are scored in: they show what a model that has seen a task makes of it, are not zero-shot, and are marked in every
table; their gains are flagged "seen" and count in no mean. xP3 has labelled data of other tasks in 44 languages besides
English: gains on the three others are marked as not zero-shot in these, and split by language.
Where mT0 is a size's best on English dev, the report names what it
has seen. The hub has mt0-xl and mt5-base only as pickles, which are refused: DIR must hold them converted, at
`encoders/<repository>`.

Rates of all sizes are ten times those of XLM-R, as a starting point with the grid around it (see `one_vs_ten_billion`). This
recipe has not been run.

Version 2 has mT0 as a choice of mT5's sizes. In version 1 its encoders were sizes of their own, whose scores no table compared
with mT5's seed by seed, and which were timed although they run as fast.
"""

from __future__ import annotations

from study.recipes.one_vs_ten_billion import BATCH, MT5_RATE, XXL, by_tokens, size_on_80_gb
from study.recipes.xtreme_r import epochs, target_tunings
from study.spec import BenchmarkPlan, PublishedAfter, Space, Study, Training
from trainables.models.catalogue import published
from trainables.models.published_encoder import pinned_encoder
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.squad import Squad
from trainables.tasks.pinning import pinned_if_possible
from trainables.tasks.xtreme.mlqa import Mlqa
from trainables.tasks.xtreme.panx import PanX
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos
from trainables.tasks.xtreme.xnli import Xnli

NAMES = ("small", "base", "large", "xl", "xxl")


def mt0_vs_mt5(seed: int = 0) -> Study:
    """Five sizes, six targets, two intermediate tasks, mT0 and none, one seed."""
    tuning = Training(2e-5, epochs("mnli", 2, BATCH), BATCH, seed, precision="bf16_mixed")
    targets = (Udpos(), PanX(), TyDiQA(), Mlqa(), Xnli(), Tatoeba())
    names = {task.name for task in targets}
    mt0 = PublishedAfter("mt0", tuple((f"mt5-{name}", pinned_encoder(published(f"mt0-{name}"))) for name in NAMES))
    return Study(
        name="mt0_vs_mt5",
        version=2,
        seed=seed,
        # Each on the fewest cards of 80 GB that hold it.
        sizes=(
            size_on_80_gb("mt5-small", MT5_RATE, gpus=0.125, **by_tokens(4096)),
            size_on_80_gb("mt5-base", MT5_RATE, gpus=0.25, **by_tokens(4096)),
            size_on_80_gb("mt5-large", MT5_RATE, gpus=0.5, **by_tokens(4096)),
            size_on_80_gb("mt5-xl", MT5_RATE, **by_tokens(16_384)),
            size_on_80_gb("mt5-xxl", MT5_RATE, workers=2, **by_tokens(4096), **XXL),
        ),
        targets=tuple(map(pinned_if_possible, targets)),
        space=Space(
            intermediates=(pinned_if_possible(Mnli()), pinned_if_possible(Squad()), mt0),
            lr_intermediate=(1e-5, 2e-5),
            lr_target=(2e-5, 1e-5, 4e-5),
        ),
        intermediate_tuning=Training(1e-5, 3_000, BATCH, seed, precision="bf16_mixed", max_length=384),
        tuning=tuning,
        own_tuning=tuple(own for own in target_tunings(tuning) if own.task in names),
        trials=8,
        reduction_factor=2,
        benchmark=BenchmarkPlan(variants=("fp32", "bf16"), gpu_memory_gb=80),
    )
