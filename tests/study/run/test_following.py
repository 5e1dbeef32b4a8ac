"""A study in a bucket, shown on another machine while it runs: results, what the run says of itself, and its last report."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import analysis
from study.run.bucket.driving import Shipping, kept_in_bucket
from study.run.bucket.following import RESULTS_S, Follower, following
from study.run.output_folder import locked
from study.run.report import REPORT
from study.tracking.tracker import Tracker, default_uri
from study.watch.status_file import STATUS_FILE, RunState, RunStatus, read_status
from tests.support.object_server import Fault, ObjectServer
from tests.support.waiting import wait_for
from trainables.store.bucket.client import ObjectStore


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def delay_s() -> float:
    """The tests ship themselves."""
    return 3600.0


def say(output: Path, state: RunState, phase: str = "") -> None:
    status = RunStatus(state, phase, "", (), (), "", "head", 1.0, 2.0)
    (output / STATUS_FILE).write_text(json.dumps(asdict(status)))


def write_trial(output: Path, name: str) -> None:
    params = {"intermediate": "none", "lr_intermediate": None, "lr_target": 1e-3, "seed": 0}
    with Tracker(default_uri(output), "followed", output=output) as tracker:
        run = tracker.trial("1x32", name, default_cell=False, params=params)
        tracker.metrics(run, {"dev/score": 40.0})
        assert tracker.flush()


def ship(shipping: Shipping | None) -> None:
    assert shipping is not None
    shipping.ship()
    shipping._ship_shown()


def trials(output: Path) -> set[str]:
    return set(analysis.load(default_uri(output), "followed").trials["trial_id"])


def test_results_and_status_follow_the_run(
    output: Path, there: Path, bucket: ObjectStore, object_server: ObjectServer
) -> None:
    clock = Clock()
    with kept_in_bucket(output) as shipping:
        write_trial(output, "first")
        say(output, RunState.RUNNING, "search")
        ship(shipping)
        follower = Follower(there, bucket, clock=clock)
        follower.look()
        assert trials(there) == {"first"}
        database = (there / "mlflow.db").stat().st_ino

        write_trial(output, "second")
        say(output, RunState.RUNNING, "benchmark")
        ship(shipping)
        object_server.requests.clear()
        clock.now_s += RESULTS_S / 2
        follower.look()
        assert len(object_server.requests) == 1, "what the run says of itself"
        status = read_status(there)
        assert status is not None
        assert status.phase == "benchmark"
        assert trials(there) == {"first"}
        clock.now_s += RESULTS_S / 2
        follower.look()
        assert trials(there) == {"first", "second"}
        assert (there / "mlflow.db").stat().st_ino == database, "a server that has it open sees them"

        write_trial(output, "last")
        (output / REPORT).write_text("the last report")
        say(output, RunState.ENDED)
    follower.look()
    assert trials(there) == {"first", "second", "last"}
    assert (there / REPORT).read_text() == "the last report"
    status = read_status(there)
    assert status is not None
    assert status.state is RunState.ENDED


def test_a_listing_is_all_that_a_study_without_news_costs(
    output: Path, there: Path, bucket: ObjectStore, object_server: ObjectServer
) -> None:
    clock = Clock()
    with kept_in_bucket(output) as shipping:
        write_trial(output, "first")
        ship(shipping)
        follower = Follower(there, bucket, clock=clock)
        follower.look()
        object_server.requests.clear()
        clock.now_s += RESULTS_S
        follower.look()
        assert len(object_server.requests) == 2


def test_the_driver_s_own_machine_is_left_alone(output: Path, bucket: ObjectStore) -> None:
    with kept_in_bucket(output) as shipping:
        write_trial(output, "first")
        say(output, RunState.RUNNING)
        ship(shipping)
    say(output, RunState.RUNNING, "newer than in the bucket")
    with locked(output):
        Follower(output, bucket).look()
        status = read_status(output)
    assert status is not None
    assert status.phase == "newer than in the bucket"


def test_another_command_in_a_bucket_does_not_repeat_what_an_old_run_said_here(
    there: Path, bucket: ObjectStore
) -> None:
    (there / REPORT).write_text("old")
    say(there, RunState.FAILED)
    with kept_in_bucket(there):
        pass
    assert bucket.get(REPORT) is None
    assert bucket.get(STATUS_FILE) is None


def test_a_bucket_that_does_not_answer_is_said_once_and_tried_again(
    url: str, there: Path, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.run.bucket.following.LOOK_S", 0.02)
    said = list[str]()
    fault = Fault("GET", STATUS_FILE, status=403, times=3)
    object_server.faults.append(fault)
    with following(there, say=said.append):
        wait_for(lambda: fault.times == 0)
        time.sleep(0.1)
    assert len(said) == 1
    assert f"{url}/{STATUS_FILE}" in said[0]


def test_a_folder_is_not_followed(tmp_path: Path) -> None:
    with following(tmp_path, say=lambda line: pytest.fail(line)):
        assert not list(tmp_path.iterdir())
