"""What a group's workers are started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray.train.torch

from trainables.launch.group import run_group
from trainables.launch.job import Job, no_progress
from trainables.launch.process import NO_GPU
from trainables.resources import Resources


class Recorded:
    """Stands in for a trainer, which would start workers."""

    environments: ClassVar[list[dict[str, str]]] = []

    def __init__(self, *_: Any, run_config: Any, **__: Any) -> None:
        self.environments.append(run_config.worker_runtime_env["env_vars"])

    def fit(self) -> None:
        """Succeeds."""


def test_workers_on_gpus_get_an_allocator_that_grows_and_others_see_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Recorded)
    monkeypatch.setattr(ray, "nodes", list)
    for gpus in (1, 0):
        run_group(Job(str(tmp_path), Resources(workers=2, gpus=gpus)), name="trial", progress=no_progress)
    # PyTorch 2.13 reads this name, and its older one PYTORCH_CUDA_ALLOC_CONF.
    assert Recorded.environments == [{"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, NO_GPU]
