"""A trial that launches a Ray Train group and is stopped early leaves the cluster as it was found."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.tune.schedulers import TrialScheduler

from study.cluster import connected
from study.search import RunDefaultsToTheEnd, run_search
from tests import recipes

CPUS = 2


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray of our own on a machine where an earlier cluster left its address behind."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # sockets want a short path
        monkeypatch.setenv("RAY_TMPDIR", folder)
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        with connected(None, cpus=CPUS):
            yield


@pytest.mark.usefixtures("cluster")
def test_stopped_group_trials_give_their_cores_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial wants two cores: on two, the second can only run on what the first gave back."""

    def stop(self: Any, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.STOP

    monkeypatch.setattr(RunDefaultsToTheEnd, "on_trial_result", stop)
    study = dataclasses.replace(recipes.tiny(), trials=2)
    size = study.size("1x64")
    assert size.resources.workers * size.resources.cpus == CPUS
    result = run_search(
        study, size, tmp_path, concurrent=1, progress=lambda stage, done, total, value: None, callbacks=[]
    )
    assert [trial.outcome for trial in result.trials] == ["stopped_early"] * 2
    assert {trial.metrics["targets_finished"] for trial in result.trials} == {1}
    assert cores_after(30.0) == ray.cluster_resources()["CPU"]


def cores_after(seconds: float) -> float:
    """Free cores once all are free, or when the time is up."""
    until = time.monotonic() + seconds
    total = ray.cluster_resources()["CPU"]
    while (free := ray.available_resources().get("CPU", 0.0)) < total and time.monotonic() < until:
        time.sleep(0.5)
    return free
