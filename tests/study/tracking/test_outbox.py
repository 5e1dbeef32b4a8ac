"""MLflow down, slow, refusing or losing answers: the study continues, nothing is lost, nothing appears twice."""

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
from study.tracking.outbox import DeliveryOffset, Outbox, OutboxUnusable
from study.tracking.sync import TrackingUnavailable, send
from study.tracking.tracker import Tracker
from study.tracking.views import ui_tags
from tests.support.commands import ROOT, study_command
from tests.support.mlflow_stub import Stub, stub_server
from trainables.store.kept import parse_object, sealed

PARAMS = {"intermediate": "none", "lr_intermediate": None, "lr_target": 1e-3, "seed": 0}
NO_SERVER = "http://127.0.0.1:9"  # the discard port
SECRET = "canary-in-the-uri"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_server() as stub:
        yield stub


def _open(stub: Stub, output: Path, lines: list[str] | None = None, **options: Any) -> Tracker:
    return Tracker(stub.uri, "demo", output=output, say=(lines if lines is not None else []).append, **options)


def _write(tracker: Tracker, trials: int = 3) -> None:
    """What a search writes: trials with two results each, an outcome, a file, an end."""
    tracker.describe({"study.seed": 0})
    for number in range(trials):
        run = tracker.trial("s", f"t{number}", default_cell=False, params=PARAMS)
        for step in (1, 2):
            tracker.metrics(run, {"dev/score": 10.0 * number + step, f"dev/task{step}": 1.0}, step=step)
        path = tracker.output / f"t{number}" / "examples.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"examples of t{number}")
        tracker.artifact(run, path)
        tracker.tags(run, {"outcome": "complete"})
        tracker.finish(run)


def _check(stub: Stub, trials: int = 3) -> None:
    """The store has what `_write` wrote, once."""
    runs = stub.by_key()
    assert set(runs) == {"size:s", *(f"trial:s:t{number}" for number in range(trials))}
    assert stub.experiments["demo"]["tags"]["study.seed"] == "0"
    for number in range(trials):
        run = runs[f"trial:s:t{number}"]
        # An unchanged value is not written again at the next step.
        points = {("dev/score", 1, 10.0 * number + 1), ("dev/score", 2, 10.0 * number + 2)}
        points |= {("dev/task1", 1, 1.0), ("dev/task2", 2, 1.0)}
        assert {point[:3] for point in run["metrics"]} == points
        assert len(run["metrics"]) == len(points), "a point appears twice"
        assert run["params"]["lr_intermediate"] == "none"
        assert run["tags"]["outcome"] == "complete"
        assert run["status"] == "FINISHED"
        assert stub.files[f"{run['run_id']}/examples.parquet"] == f"examples of t{number}".encode()


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
    with _open(stub, tmp_path, lines, offline=True) as tracker:
        _write(tracker)
        frames = tracker.read(lambda uri: analysis.load(uri, "demo"))
        assert list(frames.trials["outcome"]) == ["complete"] * 3, "the report reads the outbox"
    assert stub.requests == []
    assert "lacks" in lines[-1]
    assert f"python -m study sync {tmp_path}" in lines[-1]
    time.sleep(0.002)
    reopened = time.time_ns() // 10**6
    with _open(stub, tmp_path, lines) as tracker:
        assert tracker.flush()
    _check(stub)
    assert all(point[3] < reopened for run in stub.active() for point in run["metrics"])
    assert all(run["start_time"] < reopened for run in stub.active())
    assert all(run["end_time"] < reopened for run in stub.active() if run["end_time"])


@pytest.mark.parametrize("broken", [None, "runs/search", "experiments/search"])
def test_the_report_reads_the_outbox_if_a_complete_store_cannot_be_read(
    stub: Stub, broken: str | None, tmp_path: Path
) -> None:
    lines: list[str] = []
    with _open(stub, tmp_path, lines) as tracker:
        _write(tracker)
        stub.broken = broken
        frames = tracker.read(lambda uri: analysis.load(uri, "demo"))
    assert list(frames.trials["outcome"]) == ["complete"] * 3
    assert list(frames.trials["dev_score"]) == [2.0, 12.0, 22.0]
    assert ["MLflow cannot be read" in line for line in lines] == ([True] if broken else [])


def test_an_experiment_of_an_earlier_version_gets_what_the_ui_shows_through_the_journal(
    stub: Stub, tmp_path: Path
) -> None:
    with _open(stub, tmp_path) as tracker:
        _write(tracker)
    tags = stub.experiments["demo"]["tags"]
    assert not [tag for tag in tags if tag.startswith("mlflow.")]
    journal = tmp_path / "outbox" / "journal.jsonl"
    for _ in range(2):  # the second time adds nothing
        with _open(stub, tmp_path, offline=True) as tracker:
            tracker.describe(ui_tags())
            entries = journal.read_text().splitlines()
            assert [json.loads(line)["do"] for line in entries].count("describe") == 2
    assert "mlflow.experimentKind" not in tags
    assert send(tmp_path, say=lambda line: None)
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert {tag: tags[tag] for tag in ui_tags()} == ui_tags()


def test_what_somebody_edited_in_the_ui_stays(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracker:
        tracker.describe({"mlflow.note.content": "ours", "study.seed": 0})
        _write(tracker)
    run = stub.by_key()["trial:s:t0"]["tags"]
    assert "Trial of size s" in run["mlflow.note.content"]
    run["mlflow.note.content"] = "edited"
    tags = stub.experiments["demo"]["tags"]
    assert tags["mlflow.note.content"] == "ours"
    tags |= {"mlflow.note.content": "edited", "mlflow.experimentKind": "genai_development"}
    with _open(stub, tmp_path) as tracker:
        tracker.describe({"mlflow.note.content": "ours, of a later version", **ui_tags(), "study.seed": 1})
    assert send(tmp_path, stub.uri, again=True, say=lambda line: None)
    assert run["mlflow.note.content"] == tags["mlflow.note.content"] == "edited"
    assert tags["mlflow.experimentKind"] == "genai_development"
    assert tags["study.seed"] == "1"


def test_an_outage_costs_one_call_per_pause_and_is_caught_up_in_order(stub: Stub, tmp_path: Path) -> None:
    lines: list[str] = []
    with _open(stub, tmp_path, lines) as tracker:
        _write(tracker, 1)
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
        _write(tracker)
        assert tracker.flush()
    counts = stub.by_key()["size:s"]["metrics"]
    assert sorted(point[1] for point in counts) == list(range(2000))
    counts.clear()
    _check(stub)
    assert order.index("runs/create") > order.index("runs/log-batch"), "first written, first sent"
    assert [line for line in lines if "does not take results" in line] == lines[:1]
    assert "answers again" in lines[1]
    assert len(lines) == 2


@pytest.mark.slow
def test_a_slow_server_blocks_no_write(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracker:
        stub.gate.clear()
        answered = len(stub.requests)
        _write(tracker, 50)
        assert len(stub.requests) <= answered + 1, "a write waited for an answer"
        stub.gate.set()
        assert tracker.flush()
    _check(stub, 50)


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_starts_to_refuse_fails_no_study(stub: Stub, status: int, tmp_path: Path) -> None:
    lines: list[str] = []
    with _open(stub, tmp_path, lines) as tracker:
        stub.status = status
        _write(tracker)
    assert "lacks" in lines[-1]
    assert str(status) in lines[-1]
    stub.status = None
    assert send(tmp_path, say=lines.append), "the outbox knows the store that it was meant for"
    _check(stub)


@pytest.mark.parametrize("fault", ["answer lost", "request late"])
def test_no_run_appears_twice_when_its_creation_is_not_confirmed(stub: Stub, fault: str, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracker:
        if fault == "answer lost":
            stub.lose = "runs/create"
        else:
            stub.delay = "runs/create"
        _write(tracker)
        tracker.flush()
        if fault == "request late":  # the first request takes effect after the second, which found no run
            assert len(stub.active()) == 4
            stub.late.set()
            deadline = time.monotonic() + 10
            while len(stub.active()) < 5:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert tracker.flush()
    _check(stub)


def test_a_crash_between_a_delivery_and_its_offset_duplicates_nothing(stub: Stub, tmp_path: Path) -> None:
    """The delivery offset is set back to earlier states: what came after was delivered, but not recorded."""
    with _open(stub, tmp_path, offline=True) as tracker:
        _write(tracker)
    (offset_file,) = (tmp_path / "outbox").glob("receipt-*.json")
    assert send(tmp_path, say=lambda line: None)
    expected = stub.content()
    whole = json.loads(offset_file.read_text())
    del whole["line"]  # as files of earlier versions, whose offsets count where a line ends
    lines = (tmp_path / "outbox" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(0, len(lines), 3):
        offset_file.write_text(json.dumps({**whole, "offset": sum(map(len, lines[:count]))}))
        assert send(tmp_path, say=lambda line: None)
        assert stub.content() == expected
        _check(stub)


@pytest.mark.parametrize("damage", ["last line lost", "end cut off", "last line is another"])
def test_an_offset_that_the_outbox_does_not_bear_out_is_not_believed(stub: Stub, damage: str, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracker:
        _write(tracker)
        assert tracker.flush()
    journal = tmp_path / "outbox" / "journal.jsonl"
    content = journal.read_bytes()
    before, last = content[: content.rfind(b"\n", 0, -1) + 1], content[content.rfind(b"\n", 0, -1) + 1 :]
    another = json.dumps(parse_object(last)).replace("t2", "t1")
    damaged = {
        "last line lost": before,
        "end cut off": content[:-25],
        "last line is another": before + json.dumps(sealed(json.loads(another))).encode() + b"\n",
    }
    journal.write_bytes(damaged[damage])
    with _open(stub, tmp_path) as tracker:
        _write(tracker, 4)
        assert tracker.flush()
    _check(stub, 4)
    lines: list[str] = []
    assert send(tmp_path, say=lines.append)
    assert lines[-1].endswith("has everything; 0 writes were sent")


@pytest.mark.parametrize(
    "content", ["[]", "", "{", '{"offset": 3}', '{"destination": "x", "offset": -5, "refused": []}', "\xff"]
)
def test_a_damaged_offset_sends_everything_again(stub: Stub, content: str, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracker:
        _write(tracker)
    (offset_file,) = (tmp_path / "outbox").glob("receipt-*.json")
    offset_file.write_bytes(content.encode("latin-1"))
    lines: list[str] = []
    assert send(tmp_path, stub.uri, say=lines.append)
    _check(stub)
    journal = (tmp_path / "outbox" / "journal.jsonl").read_bytes()
    assert f"{journal.count(bytes([10]))} writes were sent" in lines[-1]


def test_entries_are_on_the_disk_before_the_offset_that_vouches_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path / "outbox", "demo")
    delivery = DeliveryOffset(outbox, "a store")
    outbox.append({"do": "tag"})
    saved: list[bool] = []

    def fsync(descriptor: int) -> None:
        saved.append(bool(list(outbox.folder.glob("receipt-*.json"))))

    monkeypatch.setattr(os, "fsync", fsync)
    delivery.advance(outbox.end)
    assert saved == [False], "the outbox is flushed once, before there is an offset"
    outbox.close()
    assert DeliveryOffset(outbox, "a store").offset == outbox.end


@pytest.mark.slow
def test_a_killed_sync_is_finished_by_the_next(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path, offline=True) as tracker:
        _write(tracker)
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


def test_another_store_gets_everything_too_and_a_lost_run_is_sent_again(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path) as tracker:
        _write(tracker)
    with stub_server() as other:
        assert send(tmp_path, other.uri, say=lambda line: None)
        _check(other)
        assert other.content() == stub.content()
    lost = stub.by_key()["trial:s:t1"]
    lost["lifecycle_stage"] = "deleted"
    assert send(tmp_path, stub.uri, again=True, say=lambda line: None)
    _check(stub)


def test_a_refused_write_holds_up_no_other(stub: Stub, tmp_path: Path) -> None:
    lines: list[str] = []
    with _open(stub, tmp_path, lines) as tracker:
        _write(tracker)
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


def test_params_and_tags_above_the_limit_of_a_call_all_arrive(stub: Stub, tmp_path: Path) -> None:
    many = {f"p{number}": number for number in range(150)}
    with _open(stub, tmp_path) as tracker:
        run = tracker.trial("s", "t0", default_cell=False, params={**PARAMS, **many})
        tracker.tags(run, {name: str(value) for name, value in many.items()})
        tracker.metrics(run, {"dev/score": 1.0})
        assert tracker.flush()
    stored = stub.by_key()[run]
    assert stored["params"].keys() == PARAMS.keys() | many.keys()
    assert stored["tags"].keys() >= many.keys()
    assert {point[0] for point in stored["metrics"]} == {"dev/score"}


def test_a_file_is_sent_once(stub: Stub, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    sent: Callable[[], int] = lambda: sum(call.startswith("/api/2.0/mlflow-artifacts") for call in stub.requests)  # noqa: E731
    for content, count in (("a", 1), ("a", 1), ("b", 2)):
        with _open(stub, tmp_path) as tracker:
            report.write_text(content)
            tracker.artifact(tracker.size("s"), report)
            assert tracker.flush()
        assert sent() == count


def test_a_partial_last_line_is_removed_and_damage_elsewhere_is_refused(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "demo")
    for number in range(3):
        outbox.append({"do": "describe", "tags": {"n": str(number)}})
    with pytest.raises(OutboxUnusable, match="another process"):
        Outbox(tmp_path, "demo")
    outbox.close()
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) - 20, len(whole)):
        path.write_bytes(whole[:cut])
        reopened = Outbox(tmp_path, "demo")
        assert len(reopened.take_recovered()) == 3
        reopened.append({"do": "describe", "tags": {"n": "2"}})
        reopened.close()
        assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"n":"1"', b'"n":"1'))
    with pytest.raises(OutboxUnusable, match=r"line 3: damaged.*move the file away"):
        Outbox(tmp_path, "demo")
    path.write_bytes(whole)
    with pytest.raises(OutboxUnusable, match="belongs to the study 'demo'"):
        Outbox(tmp_path, "other")


def test_a_full_disk_delays_results_and_loses_none(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "demo")
    entries = [{"do": "describe", "tags": {"n": str(number)}} for number in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (outbox.end + 10, hard))  # enough for a part of a line
    try:
        for entry in entries[:2]:
            outbox.append(entry)
        assert outbox.error is not None
        assert outbox.count(outbox.end) == 2
        assert outbox.read(outbox.end) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    outbox.append(entries[2])
    assert outbox.error is None
    assert [stored.entry for stored in outbox.read(0)][1:] == entries
    outbox.close()


def test_a_disk_that_cannot_even_truncate_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path, "demo")
    entries = [{"do": "describe", "tags": {"n": str(number)}} for number in range(2)]
    write = os.pwrite

    def half(file: int, data: bytes, offset: int) -> int:
        if offset > outbox.end:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(file, data[:10], offset)

    def fail(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", half)
        broken.setattr(os, "ftruncate", fail)
        outbox.append(entries[0])
        assert outbox.error is not None
        assert outbox.read(outbox.end) == []
    outbox.append(entries[1])
    assert outbox.error is None
    assert [stored.entry for stored in outbox.read(0)][1:] == entries
    monkeypatch.setattr(os, "fsync", fail)
    outbox.close()
    assert outbox.error is not None, "the last write may not be on disk"


def test_closing_without_the_folder_does_not_hide_the_error_of_the_study(stub: Stub, tmp_path: Path) -> None:
    lines: list[str] = []
    output = tmp_path / "out"

    def study() -> None:
        with _open(stub, output, lines) as tracker:
            _write(tracker, 1)
            assert tracker.flush()
            shutil.rmtree(output)
            tracker.tags("trial:s:t0", {"late": "yes"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        study()
    assert "the outbox cannot be read" in lines[-1]


def test_nothing_is_sent_again_after_the_folder_moved(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path / "a") as tracker:
        _write(tracker)
    shutil.move(tmp_path / "a", tmp_path / "b")
    before = len(stub.requests)
    with _open(stub, tmp_path / "b") as tracker:
        _write(tracker)
        assert tracker.flush()
    assert set(stub.requests[before:]) == {"experiments/get-by-name"}


@pytest.mark.parametrize("removed", ["journal.jsonl", "."])
def test_a_study_without_its_outbox_resumes_even_after_the_folder_moved(
    stub: Stub, removed: str, tmp_path: Path
) -> None:
    with _open(stub, tmp_path / "a") as tracker:
        _write(tracker, 2)
    shutil.move(tmp_path / "a" / "outbox" / removed, tmp_path / "kept")
    shutil.move(tmp_path / "a", tmp_path / "b")
    with _open(stub, tmp_path / "b") as tracker:
        _write(tracker, 3)
        assert tracker.flush()
    assert set(stub.by_key()) == {"size:s", "trial:s:t0", "trial:s:t1", "trial:s:t2"}


def test_two_folders_do_not_share_an_experiment(stub: Stub, tmp_path: Path) -> None:
    with _open(stub, tmp_path / "a") as tracker:
        _write(tracker)
    before, requests = json.dumps(stub.experiments), len(stub.requests)
    with pytest.raises(TrackingUnavailable, match=r"'demo' belongs to another output folder.*another name"):
        _open(stub, tmp_path / "b")
    with _open(stub, tmp_path / "b", offline=True) as tracker:
        _write(tracker, 1)
    with pytest.raises(TrackingUnavailable, match="another output folder"):
        send(tmp_path / "b", stub.uri, again=True, say=lambda line: None)
    assert set(stub.requests[requests:]) == {"experiments/get-by-name"}
    assert json.dumps(stub.experiments) == before
    _check(stub)
    with stub_server() as other:
        assert send(tmp_path / "b", other.uri, say=lambda line: None)
        _check(other, 1)


def test_an_experiment_that_received_the_outbox_or_has_no_study_is_used(stub: Stub, tmp_path: Path) -> None:
    stub.experiments["demo"] = {"experiment_id": "7", "name": "demo", "tags": {"team": "of whoever created it"}}
    with _open(stub, tmp_path / "a") as tracker:
        _write(tracker)
    (tmp_path / "b").mkdir()
    shutil.copytree(tmp_path / "a" / "outbox", tmp_path / "b" / "outbox")
    assert send(tmp_path / "b", stub.uri, say=lambda line: None)
    with pytest.raises(TrackingUnavailable, match="another output folder"):
        _open(stub, tmp_path / "c")
    _check(stub)


@pytest.mark.parametrize("earlier", [False, True], ids=["sealed", "as earlier versions wrote it"])
def test_an_id_with_another_character_is_taken_from_the_experiment_that_has_the_outbox(
    earlier: bool, stub: Stub, tmp_path: Path
) -> None:
    path, outbox = tmp_path / "study.id", tmp_path / "outbox"
    with _open(stub, tmp_path) as tracker:
        _write(tracker)
    (own,) = (experiment["tags"]["study.folder"] for experiment in stub.experiments.values())
    text = own if earlier else path.read_text(encoding="utf-8")
    path.write_text(text.replace(own, f"{'0' if own[0] != '0' else '1'}{own[1:]}"), encoding="utf-8")
    assert send(tmp_path, stub.uri, say=lambda line: None)
    assert parse_object(path.read_bytes()) == {"id": own}
    shutil.rmtree(outbox)
    with _open(stub, tmp_path) as tracker:
        _write(tracker)
    assert len(stub.by_key()) == len(stub.runs) == 4


@pytest.mark.parametrize("damage", ["another character", "no text", "cut"])
def test_a_damaged_id_that_nothing_gives_back_is_refused_in_a_sentence(damage: str, stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "study.id"
    with _open(stub, tmp_path) as tracker:
        _write(tracker)
    stored = path.read_bytes()
    id_at = stored.index(b'"id": "') + 7
    odd = b"0" if stored[id_at : id_at + 1] != b"0" else b"1"
    path.write_bytes(
        {
            "another character": stored[:id_at] + odd + stored[id_at + 1 :],
            "no text": json.dumps(sealed({"id": 3})).encode(),
            "cut": stored[:20],
        }[damage]
    )
    damaged = path.read_bytes()
    shutil.rmtree(tmp_path / "outbox")
    with pytest.raises(TrackingUnavailable, match=r"study\.id is damaged \(.*\).*restore it.*or remove it"):
        _open(stub, tmp_path)
    assert path.read_bytes() == damaged
    with _open(stub, tmp_path, offline=True) as tracker:  # its report still reads the outbox
        _write(tracker)
        assert tracker.read(lambda uri: uri).startswith("sqlite:")
    path.write_bytes(stored)
    assert send(tmp_path, stub.uri, say=lambda line: None)
    assert len(stub.by_key()) == len(stub.runs) == 4


def test_a_folder_of_an_earlier_version_keeps_its_id_as_it_is(stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "study.id"
    path.write_text("a" * 32, encoding="utf-8")
    for _ in range(2):
        with _open(stub, tmp_path) as tracker:
            _write(tracker)
        shutil.rmtree(tmp_path / "outbox")
    assert path.read_text(encoding="utf-8") == "a" * 32
    path.write_text("b" + "a" * 31, encoding="utf-8")
    with pytest.raises(TrackingUnavailable, match=r"the id in .*study\.id"):
        _open(stub, tmp_path)
