"""Do ten billion parameters buy zero-shot transfer? XLM-R Large, XL and XXL, and the encoders of mT5 large, XL and XXL.

python -m study run one_vs_ten_billion [--data-root DIR]

The targets are those that both families' papers report, and sentence retrieval. DIR may hold converted checkpoints, at
`encoders/<repository>`, that the hub has only as pickles.

mT5's published XNLI scores (81.1, 82.9 and 85.0 for large, XL and XXL) are of the whole encoder-decoder generating its answers.
Here its encoder alone (0.6, 1.7 and 5.7 billion parameters) gets the same heads as XLM-R, so they are not comparable. The
largest size needs eight H100, and all sizes are timed on a single one; `plan` shows what each needs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from study.recipes.xtreme_r import epochs, target_tunings
from study.spec import BenchmarkPlan, Resources, Size, Space, Study, Training
from trainables.models.catalogue import published
from trainables.models.published_encoder import pinned_encoder
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.squad import Squad
from trainables.tasks.pinning import pinned_if_possible
from trainables.tasks.xtreme.mlqa import Mlqa
from trainables.tasks.xtreme.panx import PanX
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.xnli import Xnli
from trainables.tasks.xtreme.xquad import XQuAD

# mT5's published rate, a constant 1e-3, is for Adafactor, whose steps are relative to the weights; it says nothing about AdamW.
# Ten times the other sizes' rates is a starting point, with the grid around it.
MT5_RATE = 10.0


def one_vs_ten_billion(seed: int = 0) -> Study:
    """Six sizes, six targets, two intermediate tasks and none, one seed."""
    tuning = Training(1e-5, epochs("mnli", 2), 32, seed, precision="bf16_mixed")
    intermediate = Training(5e-6, 12_000, 32, seed, precision="bf16_mixed", max_length=384)
    own = target_tunings(tuning)
    return Study(
        name="one_vs_ten_billion",
        version=1,
        seed=seed,
        sizes=(
            _size("xlm-r-large", workers=1, micro_batch=32),
            _size("xlm-r-xl", workers=4, zero_stage=2, micro_batch=8),
            _size("xlm-r-xxl", workers=8, zero_stage=3, micro_batch=4, activation_checkpointing=True),
            _size("mt5-large", MT5_RATE, workers=1, micro_batch=32),
            _size("mt5-xl", MT5_RATE, workers=2, zero_stage=2, micro_batch=16),
            _size("mt5-xxl", MT5_RATE, workers=8, zero_stage=3, micro_batch=4, activation_checkpointing=True),
        ),
        targets=tuple(pinned_if_possible(task) for task in (PanX(), TyDiQA(), XQuAD(), Mlqa(), Xnli(), Tatoeba())),
        space=Space(
            intermediates=(pinned_if_possible(Mnli()), pinned_if_possible(Squad())),
            lr_intermediate=(5e-6, 1e-5),
            lr_target=(1e-5, 5e-6, 2e-5),
        ),
        intermediate_tuning=intermediate,
        tuning=tuning,
        own_tuning=tuple(tuning for tuning in own if tuning.task in ("panx", "tydiqa", "xquad", "mlqa")),
        trials=8,
        reduction_factor=2,
        # XLM-R XXL has 43 GB of fp32 weights; every size is timed on the card that holds them.
        benchmark=BenchmarkPlan(variants=("fp32", "bf16"), accelerator_type="H100"),
    )


def _size(name: str, rate_factor: float = 1.0, **resources: Any) -> Size:
    """Each worker has one H100 and eight cores."""
    usual = Resources(cpus=8, gpus=1, accelerator_type="H100")
    return Size(
        name,
        pinned_encoder(published(name)),
        dataclasses.replace(usual, **resources),
        rate_factor=rate_factor,
    )
