"""MLflow away, slow, refusing or losing answers: the study goes on, nothing is lost, nothing appears twice."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import analysis
from study.tracking.outbox import Journal, JournalUnusable
from study.tracking.tracker import Tracking, TrackingUnavailable, send
from tests.conftest import ROOT, study_command
from tests.support.mlflow_stub import Stub, stub_server

PARAMS = {"intermediate": "none", "lr_intermediate": None, "lr_target": 1e-3, "seed": 0}
NOBODY = "http://127.0.0.1:9"  # the discard port: nobody answers
SECRET = "canary-in-the-uri"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_server() as stub:
        yield stub


def _open(stub: Stub, output: Path, said: list[str] | None = None, **options: Any) -> Tracking:
    return Tracking(stub.uri, "demo", output, say=(said if said is not None else []).append, **options)


def _write(tracking: Tracking, trials: int = 3) -> None:
    """What a search writes: trials with two results each, an outcome, a file, an end."""
    tracking.describe({"study.seed": 0})
    for number in range(trials):
        run = tracking.trial("s", f"t{number}", default_cell=False, params=PARAMS)
        for step in (1, 2):
            tracking.metrics(run, {"dev/score": 10.0 * number + step, f"dev/task{step}": 1.0}, step=step)
        path = tracking.output / f"t{number}" / "examples.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"examples of t{number}")
        tracking.artifact(run, path)
        tracking.tags(run, {"outcome": "complete"})
        tracking.finish(run)


def _check(stub: Stub, trials: int = 3) -> None:
    """The store holds what `_write` wrote, once."""
    runs = stub.by_key()
    assert set(runs) == {"size:s", *(f"trial:s:t{number}" for number in range(trials))}
    assert stub.experiments["demo"]["tags"]["study.seed"] == "0"
    for number in range(trials):
        run = runs[f"trial:s:t{number}"]
        # A value that stayed is not written again at the next step.
        points = {("dev/score", 1, 10.0 * number + 1), ("dev/score", 2, 10.0 * number + 2)}
        points |= {("dev/task1", 1, 1.0), ("dev/task2", 2, 1.0)}
        assert {point[:3] for point in run["metrics"]} == points
        assert len(run["metrics"]) == len(points), "a point appears twice"
        assert run["params"]["lr_intermediate"] == "none"
        assert run["tags"]["outcome"] == "complete"
        assert run["status"] == "FINISHED"
        assert stub.files[f"{run['run_id']}/examples.parquet"] == f"examples of t{number}".encode()


@pytest.mark.parametrize("status", [None, 401, 403, 500])
def test_a_store_that_takes_nothing_at_the_start_is_said_at_once(
    stub: Stub, status: int | None, tmp_path: Path
) -> None:
    stub.status = status
    uri = NOBODY if status is None else stub.uri
    with pytest.raises(TrackingUnavailable, match=r"no MLflow store.*--offline") as caught:
        Tracking(uri.replace("//", f"//user:{SECRET}@"), "demo", tmp_path)
    assert SECRET not in str(caught.value)
    assert len(stub.requests) <= 1


def test_the_command_refuses_with_exit_code_2_and_without_the_password(tmp_path: Path) -> None:
    uri = NOBODY.replace("//", f"//user:{SECRET}@")
    ran = study_command(
        "run", "tests/support/recipes.py:inline", "--output", str(tmp_path / "out"), "--tracking-uri", uri
    )
    assert ran.code == 2
    assert "no MLflow store at http://***@127.0.0.1:9" in ran.err
    assert SECRET not in ran.out + ran.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_offline_keeps_everything_and_the_next_run_sends_it_as_of_when_it_happened(stub: Stub, tmp_path: Path) -> None:
    said: list[str] = []
    with _open(stub, tmp_path, said, offline=True) as tracking:
        _write(tracking)
        frames = tracking.read(lambda uri: analysis.load(uri, "demo"))
        assert list(frames.trials["outcome"]) == ["complete"] * 3, "the report is made of the journal"
    assert stub.requests == []
    assert "lacks" in said[-1]
    assert f"python -m study sync {tmp_path}" in said[-1]
    time.sleep(0.002)
    reopened = time.time_ns() // 10**6
    with _open(stub, tmp_path, said) as tracking:
        assert tracking.flush()
    _check(stub)
    assert all(point[3] < reopened for run in stub.active() for point in run["metrics"])
    assert all(run["start_time"] < reopened for run in stub.active())
    assert all(run["end_time"] < reopened for run in stub.active() if run["end_time"])


@pytest.mark.parametrize("broken", [None, "runs/search", "experiments/search"])
def test_the_report_is_made_of_the_journal_where_the_store_has_everything_and_cannot_be_read(
    stub: Stub, broken: str | None, tmp_path: Path
) -> None:
    said: list[str] = []
    with _open(stub, tmp_path, said) as tracking:
        _write(tracking)
        stub.broken = broken
        frames = tracking.read(lambda uri: analysis.load(uri, "demo"))
    assert list(frames.trials["outcome"]) == ["complete"] * 3
    assert list(frames.trials["dev_score"]) == [2.0, 12.0, 22.0]
    assert ["MLflow cannot be read" in line for line in said] == ([True] if broken else [])


def test_an_outage_costs_one_call_a_pause_and_is_made_good_in_order(stub: Stub, tmp_path: Path) -> None:
    said: list[str] = []
    with _open(stub, tmp_path, said) as tracking:
        _write(tracking, 1)
        assert tracking.flush()
        stub.stop()
        tracking.tags("size:s", {"note": "wakes the courier"})
        assert not tracking.flush()
        stub.status = 503
        stub.start()
        before = len(stub.requests)
        for number in range(2000):
            tracking.metrics("size:s", {"count": float(number)}, step=number)
        assert len(stub.requests) - before <= 2, "each of many results asked a server that is away"
        stub.status = None
        order: list[str] = []
        stub.on_request = order.append
        _write(tracking)
        assert tracking.flush()
    _check_prefix = {point[1] for point in stub.by_key()["size:s"]["metrics"]}
    assert _check_prefix == set(range(2000))
    stub.by_key()["size:s"]["metrics"].clear()
    _check(stub)
    assert order.index("runs/create") > order.index("runs/log-batch"), "what came first is sent first"
    assert [line for line in said if "does not take results" in line] == said[:1]
    assert "answers again" in said[1]
    assert len(said) == 2


def test_a_slow_server_holds_nobody(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracking:
        stub.gate.clear()
        answered = len(stub.requests)
        _write(tracking, 50)
        assert len(stub.requests) <= answered + 1, "the writes did not wait for the first answer"
        stub.gate.set()
        assert tracking.flush()
    _check(stub, 50)


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_refuses_on_the_way_fails_no_study(stub: Stub, status: int, tmp_path: Path) -> None:
    said: list[str] = []
    with _open(stub, tmp_path, said) as tracking:
        stub.status = status
        _write(tracking)
    assert "lacks" in said[-1]
    assert str(status) in said[-1]
    stub.status = None
    assert send(tmp_path, say=said.append), "the store that it was meant for is known"
    _check(stub)


@pytest.mark.parametrize("when", ["answer lost", "made late"])
def test_no_run_appears_twice_when_the_answer_to_its_making_is_lost(stub: Stub, when: str, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracking:
        if when == "answer lost":
            stub.lose = "runs/create"
        else:
            stub.delay = "runs/create"
        _write(tracking)
        tracking.flush()
        if when == "made late":  # the first request is done after the second, which was sent because nothing was there
            assert len(stub.active()) == 4
            stub.late.set()
            deadline = time.monotonic() + 10
            while len(stub.active()) < 5:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert tracking.flush()
    _check(stub)


def test_a_crash_between_making_a_run_and_noting_it_doubles_nothing(stub: Stub, tmp_path: Path) -> None:
    """The receipt is put back to every state it had: what came after was done and not noted."""
    with _open(stub, tmp_path, offline=True) as tracking:
        _write(tracking)
    (receipt,) = (tmp_path / "outbox").glob("receipt-*.json")
    assert send(tmp_path, say=lambda line: None)
    expected = stub.content()
    whole = json.loads(receipt.read_text())
    lines = (tmp_path / "outbox" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(0, len(lines), 3):
        receipt.write_text(json.dumps({**whole, "offset": sum(map(len, lines[:count]))}))
        assert send(tmp_path, say=lambda line: None)
        assert stub.content() == expected
        _check(stub)


def test_a_replay_that_is_killed_is_finished_by_the_next(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path, offline=True) as tracking:
        _write(tracking)
    command = [sys.executable, "-m", "study", "sync", str(tmp_path), "--tracking-uri", stub.uri]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(call: str) -> None:
        if stub.requests.count("runs/log-batch") == 2:
            first.send_signal(signal.SIGKILL)

    stub.on_request = kill
    assert first.wait(60) == -signal.SIGKILL
    stub.on_request = lambda call: None
    assert send(tmp_path, stub.uri, say=lambda line: None)
    _check(stub)


def test_another_store_gets_everything_too_and_one_that_lost_a_run_gets_it_again(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracking:
        _write(tracking)
    with stub_server() as other:
        assert send(tmp_path, other.uri, say=lambda line: None)
        _check(other)
        assert other.content() == stub.content()
    lost = stub.by_key()["trial:s:t1"]
    lost["lifecycle_stage"] = "deleted"
    assert send(tmp_path, stub.uri, again=True, say=lambda line: None)
    _check(stub)


def test_a_write_that_is_refused_holds_up_no_other(stub: Stub, tmp_path: Path) -> None:
    said: list[str] = []
    with _open(stub, tmp_path, said) as tracking:
        _write(tracking)
        assert tracking.flush()
        stub.by_key()["trial:s:t0"]["params"]["late"] = "another value"
        tracking.trial("s", "t0", default_cell=False, params={**PARAMS, "late": 1})
        tracking.metrics("trial:s:t0", {"dev/score": 99.0}, step=3)
        gone = tmp_path / "gone.html"
        gone.write_text("gone before it was sent")
        stub.gate.clear()
        tracking.artifact("trial:s:t0", gone)
        gone.unlink()
        stub.gate.set()
        tracking.tags("trial:s:t0", {"last": "yes"})
        assert tracking.flush()
    run = stub.by_key()["trial:s:t0"]
    assert ("dev/score", 3, 99.0) in {point[:3] for point in run["metrics"]}
    assert run["tags"]["last"] == "yes"
    assert "refused 2 writes" in said[-1]
    assert "param late has another value" in said[-1]


def test_more_params_or_tags_than_a_call_takes_all_arrive(stub: Stub, tmp_path: Path) -> None:
    many = {f"p{number}": number for number in range(150)}
    with _open(stub, tmp_path) as tracking:
        run = tracking.trial("s", "t0", default_cell=False, params={**PARAMS, **many})
        tracking.tags(run, {name: str(value) for name, value in many.items()})
        tracking.metrics(run, {"dev/score": 1.0})
        assert tracking.flush()
    held = stub.by_key()[run]
    assert held["params"].keys() == PARAMS.keys() | many.keys()
    assert held["tags"].keys() >= many.keys()
    assert {point[0] for point in held["metrics"]} == {"dev/score"}


def test_a_file_is_sent_once(stub: Stub, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    sent: Callable[[], int] = lambda: sum(call.startswith("/api/2.0/mlflow-artifacts") for call in stub.requests)  # noqa: E731
    for content, count in (("a", 1), ("a", 1), ("b", 2)):
        with _open(stub, tmp_path) as tracking:
            report.write_text(content)
            tracking.artifact(tracking.size("s"), report)
            assert tracking.flush()
        assert sent() == count


def test_a_torn_last_line_is_cut_off_and_damage_elsewhere_is_said(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "demo")
    for number in range(3):
        journal.append({"do": "describe", "tags": {"n": str(number)}})
    with pytest.raises(JournalUnusable, match="another process"):
        Journal(tmp_path, "demo")
    journal.close()
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) - 20, len(whole)):
        path.write_bytes(whole[:cut])
        again = Journal(tmp_path, "demo")
        assert len(again.take_recovered()) == 3
        again.append({"do": "describe", "tags": {"n": "2"}})
        again.close()
        assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"n":"1"', b'"n":"1'))
    with pytest.raises(JournalUnusable, match=r"line 3: damaged.*move the file away"):
        Journal(tmp_path, "demo")
    path.write_bytes(whole)
    with pytest.raises(JournalUnusable, match="holds the study 'demo'"):
        Journal(tmp_path, "other")


def test_a_full_disk_delays_results_and_loses_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "demo")
    entries = [{"do": "describe", "tags": {"n": str(number)}} for number in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.end + 10, hard))  # room for a part of a line
    try:
        for entry in entries[:2]:
            journal.append(entry)
        assert journal.error is not None
        assert journal.count(journal.end) == 2
        assert journal.read(journal.end) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append(entries[2])
    assert journal.error is None
    assert [placed.entry for placed in journal.read(0)][1:] == entries
    journal.close()


def test_a_disk_that_takes_back_nothing_either_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "demo")
    entries = [{"do": "describe", "tags": {"n": str(number)}} for number in range(2)]
    write = os.pwrite

    def half(file: int, data: bytes, offset: int) -> int:
        if offset > journal.end:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(file, data[:10], offset)

    def fail(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", half)
        broken.setattr(os, "ftruncate", fail)
        journal.append(entries[0])
        assert journal.error is not None
        assert journal.read(journal.end) == []
    journal.append(entries[1])
    assert journal.error is None
    assert [placed.entry for placed in journal.read(0)][1:] == entries
    monkeypatch.setattr(os, "fsync", fail)
    journal.close()
    assert journal.error is not None, "what was written last may not be on the disk"


def test_closing_hides_no_error_when_the_folder_is_gone(stub: Stub, tmp_path: Path) -> None:
    said: list[str] = []
    output = tmp_path / "out"

    def study() -> None:
        with _open(stub, output, said) as tracking:
            _write(tracking, 1)
            assert tracking.flush()
            shutil.rmtree(output)
            tracking.tags("trial:s:t0", {"late": "yes"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        study()
    assert "the journal cannot be read" in said[-1]


def test_a_folder_that_moved_needs_nothing_sent_again(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path / "a") as tracking:
        _write(tracking)
    shutil.move(tmp_path / "a", tmp_path / "b")
    before = len(stub.requests)
    with _open(stub, tmp_path / "b") as tracking:
        _write(tracking)
        assert tracking.flush()
    assert set(stub.requests[before:]) == {"experiments/get-by-name"}


@pytest.mark.parametrize("taken_away", ["journal.jsonl", "."])
def test_a_study_whose_journal_was_taken_away_goes_on_also_after_the_folder_moved(
    stub: Stub, taken_away: str, tmp_path: Path
) -> None:
    with _open(stub, tmp_path / "a") as tracking:
        _write(tracking, 2)
    shutil.move(tmp_path / "a" / "outbox" / taken_away, tmp_path / "kept")
    shutil.move(tmp_path / "a", tmp_path / "b")
    with _open(stub, tmp_path / "b") as tracking:
        _write(tracking, 3)
        assert tracking.flush()
    assert set(stub.by_key()) == {"size:s", "trial:s:t0", "trial:s:t1", "trial:s:t2"}


def test_two_folders_do_not_share_an_experiment(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path / "a") as tracking:
        _write(tracking)
    before, asked = json.dumps(stub.experiments), len(stub.requests)
    with pytest.raises(TrackingUnavailable, match=r"'demo' holds the study of another output folder.*another name"):
        _open(stub, tmp_path / "b")
    with _open(stub, tmp_path / "b", offline=True) as tracking:
        _write(tracking, 1)
    with pytest.raises(TrackingUnavailable, match="another output folder"):
        send(tmp_path / "b", stub.uri, again=True, say=lambda line: None)
    assert set(stub.requests[asked:]) == {"experiments/get-by-name"}
    assert json.dumps(stub.experiments) == before
    _check(stub)
    with stub_server() as other:
        assert send(tmp_path / "b", other.uri, say=lambda line: None)
        _check(other, 1)


def test_an_experiment_that_knows_the_journal_or_holds_no_study_is_used(stub: Stub, tmp_path: Path) -> None:
    stub.experiments["demo"] = {"experiment_id": "7", "name": "demo", "tags": {"team": "of whoever made it"}}
    with _open(stub, tmp_path / "a") as tracking:
        _write(tracking)
    (tmp_path / "b").mkdir()
    shutil.copytree(tmp_path / "a" / "outbox", tmp_path / "b" / "outbox")
    assert send(tmp_path / "b", stub.uri, say=lambda line: None)
    with pytest.raises(TrackingUnavailable, match="another output folder"):
        _open(stub, tmp_path / "c")
    _check(stub)
