"""Do ten billion parameters buy zero-shot transfer? XLM-R Large, XL and XXL, and the encoders of mT5 large, XL and XXL.

python -m study run one_vs_ten_billion [--data-root DIR]
python -m study run one_vs_ten_billion_one_gpu [--data-root DIR]     # without the two XXL, on one card of 80 GB

The targets are those that both families' papers report, and sentence retrieval. DIR may hold converted checkpoints, at
`encoders/<repository>`, that the hub has only as pickles.

mT5's published XNLI scores (81.1, 82.9 and 85.0 for large, XL and XXL) are of the whole encoder-decoder generating its answers.
Here its encoder alone (0.6, 1.7 and 5.7 billion parameters) gets the same heads as XLM-R, so they are not comparable. Every
size has the fewest cards of 80 GB that hold it (`study.planning.layout`): one, but two for mT5's XXL and four for XLM-R's. All
sizes are timed on a single one; `plan` shows what each needs.

Version 2 trains in batches of 128 instead of 32. Over eight GPUs, 32 short rows are 160 real tokens each, which cost a GPU as
long as several times as many. The number of epochs is the same. Rates are twice those of version 1, after the square-root rule
for adaptive optimizers (Malladi et al. 2022, 2205.10287): a starting point with the grid around it, and not a measured optimum.
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
BATCH = 128
# What the two XXL have besides their micro-batches: a layer's activations are computed again, as weights leave little room.
XXL: dict[str, Any] = {"zero_stage": 3, "activation_checkpointing": True}


def one_vs_ten_billion(seed: int = 0) -> Study:
    """Six sizes, six targets, two intermediate tasks and none, one seed."""
    tuning = Training(2e-5, epochs("mnli", 2, BATCH), BATCH, seed, precision="bf16_mixed")
    intermediate = Training(1e-5, 3_000, BATCH, seed, precision="bf16_mixed", max_length=384)
    own = target_tunings(tuning)
    return Study(
        name="one_vs_ten_billion",
        version=2,
        seed=seed,
        sizes=(
            size_on_80_gb("xlm-r-large", gpus=0.5, micro_batch=64),
            size_on_80_gb("xlm-r-xl", activation_checkpointing=True, **by_tokens(16_384)),
            size_on_80_gb("xlm-r-xxl", workers=4, micro_batch=32, **XXL),
            size_on_80_gb("mt5-large", MT5_RATE, gpus=0.5, **by_tokens(4096)),
            size_on_80_gb("mt5-xl", MT5_RATE, **by_tokens(16_384)),
            size_on_80_gb("mt5-xxl", MT5_RATE, workers=2, **by_tokens(4096), **XXL),
        ),
        targets=tuple(pinned_if_possible(task) for task in (PanX(), TyDiQA(), XQuAD(), Mlqa(), Xnli(), Tatoeba())),
        space=Space(
            intermediates=(pinned_if_possible(Mnli()), pinned_if_possible(Squad())),
            lr_intermediate=(1e-5, 2e-5),
            lr_target=(2e-5, 1e-5, 4e-5),
        ),
        intermediate_tuning=intermediate,
        tuning=tuning,
        own_tuning=tuple(tuning for tuning in own if tuning.task in ("panx", "tydiqa", "xquad", "mlqa")),
        trials=8,
        reduction_factor=2,
        # XLM-R XXL has 43 GB of fp32 weights; every size is timed on the card that holds them.
        benchmark=BenchmarkPlan(variants=("fp32", "bf16"), gpu_memory_gb=80),
    )


def one_vs_ten_billion_one_gpu(seed: int = 0) -> Study:
    """The same study for one card of 80 GB, without the sizes that need more: xlm-r-xxl (four cards) and mt5-xxl (two).

    With parameters in host memory XXL would fit the card, but XLM-R's needs 257 GB of host memory, and every step would wait
    for transfers. Stages and output folder are those of `one_vs_ten_billion`, so a cluster can add the sizes that are left out.
    """
    study = one_vs_ten_billion(seed)
    return dataclasses.replace(study, sizes=tuple(size for size in study.sizes if size.resources.workers == 1))


def by_tokens(most: int) -> dict[str, Any]:
    """Micro-batches of so many tokens, whatever the lengths of their rows: a whole batch of sentences, and few passages."""
    return {"micro_batch": 256, "micro_batch_tokens": most}


def size_on_80_gb(name: str, rate_factor: float = 1.0, *, gpus: float = 1, **resources: Any) -> Size:
    """A size of which each worker has a GPU of 80 GB with tensor cores for bf16, or a share of it, and eight cores a GPU."""
    usual = Resources(cpus=max(2, round(8 * gpus)), gpus=gpus, gpu_memory_gb=80 * gpus, bf16_gpu=True)
    resources_of_size = dataclasses.replace(usual, **resources)
    return Size(name, pinned_encoder(published(name)), resources_of_size, rate_factor=rate_factor)
