"""The driver refuses a study before it does any work."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from study.cluster import fit
from study.cluster.capacity import capacity_of_nodes
from study.errors import CannotRun
from study.planning.estimate.study_estimate import StudyEstimate
from study.run import cluster, driver
from study.run.driver import RunOptions, run_study
from study.search.slots import Amounts, trial_request
from study.spec import Size
from tests.support import recipes


def test_a_size_that_no_node_can_hold_is_refused_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_small(*_: object, **__: object) -> None:
        raise CannotRun("too small")

    monkeypatch.setattr(cluster, "connected", lambda address, **_: nullcontext())
    monkeypatch.setattr(cluster, "slot_amounts", too_small)
    monkeypatch.setattr(driver, "check_data", lambda *_: pytest.fail("data were read"))
    with pytest.raises(CannotRun, match="too small"):
        run_study(recipes.inline(), RunOptions(tmp_path / "out"))


def test_the_time_left_is_of_the_memory_that_trials_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Connected(Exception):
        """The estimate knows the cluster."""

    def on_cluster(estimate: StudyEstimate, sizes: Sequence[Size], capacity: Amounts, **_: object) -> None:
        if "memory" in capacity:
            raise Connected([trial_request(size)["memory"] for size in sizes])

    node = {"Alive": True, "Resources": {"CPU": 4.0, "memory": 100e9}}
    capacity = capacity_of_nodes([node])
    monkeypatch.setattr(cluster, "connected", lambda address, **_: nullcontext())
    monkeypatch.setattr(cluster, "check_local_start", list)
    monkeypatch.setattr(fit, "cluster_capacity", lambda: capacity)
    monkeypatch.setattr(StudyEstimate, "on_cluster", on_cluster)
    monkeypatch.setattr(StudyEstimate, "range_s", lambda estimate, fast, slow: None)
    monkeypatch.setattr(cluster, "worker_gb", lambda study, size: 2.0)
    with pytest.raises(Connected) as connected:
        run_study(recipes.inline(), RunOptions(tmp_path / "out", offline=True))
    assert connected.value.args == ([2e9],)
