"""The recipe that `gpu_day` runs where the weights of multilingual-e5-small are at hand: `laptop_tiny` on one GPU.

python -m study run tests/benchmarks/gpu_study.py:laptop_tiny_on_a_gpu --data-root DIR
"""

from __future__ import annotations

import dataclasses

from study.recipes.laptop import laptop_tiny
from study.spec import Study, Training


def laptop_tiny_on_a_gpu() -> Study:
    """Its targets, steps and choices in bf16 products, served in the variants that a GPU has."""
    study = laptop_tiny()
    sizes = tuple(
        dataclasses.replace(size, resources=dataclasses.replace(size.resources, cpus=4, gpus=1)) for size in study.sizes
    )
    return dataclasses.replace(
        study,
        name="laptop_tiny_on_a_gpu",
        sizes=sizes,
        tuning=_on_a_gpu(study.tuning),
        intermediate_tuning=_on_a_gpu(study.intermediate_tuning),
        own_tuning=tuple(dataclasses.replace(own, training=_on_a_gpu(own.training)) for own in study.own_tuning),
        benchmark=dataclasses.replace(study.benchmark, variants=("fp32", "graphed_bf16"), device="cuda"),
    )


def _on_a_gpu(training: Training) -> Training:
    """Not the precision that is fast on the machine's CPU."""
    return dataclasses.replace(training, precision="bf16_mixed")
