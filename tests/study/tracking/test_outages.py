"""MLflow down, slow, refusing or losing answers: the study continues, nothing is lost, nothing appears twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import analysis
from study.tracking.sync import TrackingUnavailable, send
from study.tracking.tracker import Tracker
from tests.study.tracking.helpers import PARAMS, assert_received, open_tracker, write_trials
from tests.support.commands import ROOT, study_command
from tests.support.mlflow_stub import Stub

NO_SERVER = "http://127.0.0.1:9"  # the discard port
SECRET = "canary-in-the-uri"


@pytest.mark.parametrize("status", [None, 401, 403, 500])
def test_a_store_that_takes_nothing_is_refused_at_the_start(stub: Stub, status: int | None, tmp_path: Path) -> None:
    stub.status = status
    uri = NO_SERVER if status is None else stub.uri
    with pytest.raises(TrackingUnavailable, match=r"no MLflow store.*--offline") as caught:
        Tracker(uri.replace("//", f"//user:{SECRET}@"), "demo", output=tmp_path)
    assert SECRET not in str(caught.value)
    assert len(stub.requests) <= 1


@pytest.mark.slow
def test_the_command_refuses_with_exit_code_2_and_without_the_password(tmp_path: Path) -> None:
    uri = NO_SERVER.replace("//", f"//user:{SECRET}@")
    ran = study_command(
        "run", "tests/support/recipes.py:inline", "--output", str(tmp_path / "out"), "--tracking-uri", uri
    )
    assert ran.code == 2
    assert "no MLflow store at http://***@127.0.0.1:9" in ran.err
    assert SECRET not in ran.out + ran.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_offline_results_are_sent_by_the_next_run_with_their_original_times(stub: Stub, tmp_path: Path) -> None:
    lines: list[str] = []
    with open_tracker(stub, tmp_path, lines, offline=True) as tracker:
        write_trials(tracker)
        frames = tracker.read(lambda uri: analysis.load(uri, "demo"))
        assert list(frames.trials["outcome"]) == ["complete"] * 3, "the report reads the outbox"
    assert stub.requests == []
    assert "lacks" in lines[-1]
    assert f"python -m study sync {tmp_path}" in lines[-1]
    time.sleep(0.002)
    reopened = time.time_ns() // 10**6
    with open_tracker(stub, tmp_path, lines) as tracker:
        assert tracker.flush()
    assert_received(stub)
    assert all(point[3] < reopened for run in stub.active() for point in run["metrics"])
    assert all(run["start_time"] < reopened for run in stub.active())
    assert all(run["end_time"] < reopened for run in stub.active() if run["end_time"])


@pytest.mark.parametrize("broken", [None, "runs/search", "experiments/search"])
def test_the_report_reads_the_outbox_if_a_complete_store_cannot_be_read(
    stub: Stub, broken: str | None, tmp_path: Path
) -> None:
    lines: list[str] = []
    with open_tracker(stub, tmp_path, lines) as tracker:
        write_trials(tracker)
        stub.broken = broken
        frames = tracker.read(lambda uri: analysis.load(uri, "demo"))
    assert list(frames.trials["outcome"]) == ["complete"] * 3
    assert list(frames.trials["dev_score"]) == [2.0, 12.0, 22.0]
    assert ["MLflow cannot be read" in line for line in lines] == ([True] if broken else [])


def test_an_outage_costs_one_call_per_pause_and_is_caught_up_in_order(stub: Stub, tmp_path: Path) -> None:
    lines: list[str] = []
    with open_tracker(stub, tmp_path, lines) as tracker:
        write_trials(tracker, 1)
        assert tracker.flush()
        stub.stop()
        tracker.tags("size:s", {"note": "wakes the sender"})
        assert not tracker.flush()
        stub.status = 503
        stub.start()
        before = len(stub.requests)
        for number in range(2000):
            tracker.metrics("size:s", {"count": float(number)}, step=number)
        assert len(stub.requests) - before <= 2, "every result called an absent server"
        stub.status = None
        order: list[str] = []
        stub.on_request = order.append
        write_trials(tracker)
        assert tracker.flush()
    counts = stub.by_key()["size:s"]["metrics"]
    assert sorted(point[1] for point in counts) == list(range(2000))
    counts.clear()
    assert_received(stub)
    assert order.index("runs/create") > order.index("runs/log-batch"), "first written, first sent"
    assert [line for line in lines if "does not take results" in line] == lines[:1]
    assert "answers again" in lines[1]
    assert len(lines) == 2


@pytest.mark.slow
def test_a_slow_server_blocks_no_write(stub: Stub, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path) as tracker:
        stub.gate.clear()
        answered = len(stub.requests)
        write_trials(tracker, 50)
        assert len(stub.requests) <= answered + 1, "a write waited for an answer"
        stub.gate.set()
        assert tracker.flush()
    assert_received(stub, 50)


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_starts_to_refuse_fails_no_study(stub: Stub, status: int, tmp_path: Path) -> None:
    lines: list[str] = []
    with open_tracker(stub, tmp_path, lines) as tracker:
        stub.status = status
        write_trials(tracker)
    assert "lacks" in lines[-1]
    assert str(status) in lines[-1]
    stub.status = None
    assert send(tmp_path, say=lines.append), "the outbox knows the store that it was meant for"
    assert_received(stub)


@pytest.mark.parametrize("fault", ["answer lost", "request late"])
def test_no_run_appears_twice_when_its_creation_is_not_confirmed(stub: Stub, fault: str, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path) as tracker:
        if fault == "answer lost":
            stub.lose = "runs/create"
        else:
            stub.delay = "runs/create"
        write_trials(tracker)
        tracker.flush()
        if fault == "request late":  # the first request takes effect after the second, which found no run
            assert len(stub.active()) == 4
            stub.late.set()
            deadline = time.monotonic() + 60
            while len(stub.active()) < 5:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert tracker.flush()
    assert_received(stub)


@pytest.mark.slow
def test_a_killed_sync_is_finished_by_the_next(stub: Stub, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path, offline=True) as tracker:
        write_trials(tracker)
    command = [sys.executable, "-m", "study", "sync", str(tmp_path), "--tracking-uri", stub.uri]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(call: str) -> None:
        if stub.requests.count("runs/log-batch") == 2:
            first.send_signal(signal.SIGKILL)

    stub.on_request = kill
    assert first.wait(240) == -signal.SIGKILL
    stub.on_request = lambda call: None
    assert send(tmp_path, stub.uri, say=lambda line: None)
    assert_received(stub)


def test_a_refused_write_holds_up_no_other(stub: Stub, tmp_path: Path) -> None:
    lines: list[str] = []
    with open_tracker(stub, tmp_path, lines) as tracker:
        write_trials(tracker)
        assert tracker.flush()
        stub.by_key()["trial:s:t0"]["params"]["late"] = "another value"
        tracker.trial("s", "t0", default_cell=False, params={**PARAMS, "late": 1})
        tracker.metrics("trial:s:t0", {"dev/score": 99.0}, step=3)
        gone = tmp_path / "gone.html"
        gone.write_text("gone before it was sent")
        stub.gate.clear()
        tracker.artifact("trial:s:t0", gone)
        gone.unlink()
        stub.gate.set()
        tracker.tags("trial:s:t0", {"last": "yes"})
        assert tracker.flush()
    run = stub.by_key()["trial:s:t0"]
    assert ("dev/score", 3, 99.0) in {point[:3] for point in run["metrics"]}
    assert run["tags"]["last"] == "yes"
    assert "refused 2 writes" in lines[-1]
    assert "param late has another value" in lines[-1]
