"""What a group asks of Ray Train, recorded instead of launched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray.train.torch

from trainables.launch.group import run_group
from trainables.launch.job import Job, no_progress
from trainables.resources import Resources


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every trainer that was built; `fit` does nothing."""
    built: list[dict[str, Any]] = []

    class Trainer:
        def __init__(self, work: object, **arguments: Any) -> None:
            built.append(arguments)

        def fit(self) -> None:
            pass

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    monkeypatch.setattr(ray, "nodes", lambda: [])
    return built


@pytest.mark.parametrize(("one_node", "strategy"), [(True, "STRICT_PACK"), (False, "PACK")])
def test_workers_that_fit_one_node_never_span_two(
    one_node: bool, strategy: str, trainers: list[dict[str, Any]], tmp_path: Path
) -> None:
    job = Job(str(tmp_path), Resources(workers=8, gpus=1, one_node=one_node))
    run_group(job, name="a", progress=no_progress)
    (trainer,) = trainers
    assert trainer["scaling_config"].placement_strategy == strategy
    assert trainer["scaling_config"].num_workers == 8
