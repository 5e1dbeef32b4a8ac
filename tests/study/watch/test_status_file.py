"""What a run says of itself, and how it says that it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from study.console import Status, Timeline
from study.watch.status_file import STATUS_FILE, RunState, RunStatus, StatusFile, read_status


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _read(folder: Path) -> RunStatus:
    status = read_status(folder)
    assert status is not None
    return status


def test_the_file_shows_what_the_console_shows(tmp_path: Path) -> None:
    timeline = Timeline()
    file = StatusFile(tmp_path, timeline, every_s=0.01)
    read = file.seen(lambda: Status("2/5 stages", ("2x128: 1/3 trials",), ("training nli: 5/9 steps",)))
    with file.running():
        _until(lambda: read_status(tmp_path) is not None)
        assert _read(tmp_path).state is RunState.RUNNING
        assert read().study == "2/5 stages", "the console gets what it asked for"
        with timeline.phase("search"):
            _until(lambda: _read(tmp_path).phase == "search" and _read(tmp_path).study != "")
        status = _read(tmp_path)
        assert (status.study, status.sizes) == ("2/5 stages", ("2x128: 1/3 trials",))
        assert status.stages == ("training nli: 5/9 steps",)
        before = status.written_s
        _until(lambda: _read(tmp_path).written_s > before)
    ended = _read(tmp_path)
    assert (ended.state, ended.study, ended.stages) == (RunState.ENDED, "2/5 stages", ())


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (SystemExit(143), RunState.INTERRUPTED, ""),
        (KeyboardInterrupt(), RunState.INTERRUPTED, ""),
        (RuntimeError("no store at http://me:secret@host/x\nmore"), RunState.FAILED, "no store at http://***@host/x"),
    ],
)
def test_the_file_says_how_a_run_ended(tmp_path: Path, error: BaseException, state: RunState, reason: str) -> None:
    with pytest.raises(type(error)), StatusFile(tmp_path, Timeline()).running():
        raise error
    status = _read(tmp_path)
    assert status.state is state
    assert status.reason.removeprefix("RuntimeError: ") == reason


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    with StatusFile(tmp_path / "gone", Timeline(), every_s=0.01).running():
        time.sleep(0.03)


@pytest.mark.parametrize("content", [None, "", "[]", '{"state": "running"}', '{"state": 3'])
def test_nothing_is_read_from_a_file_that_says_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / STATUS_FILE).write_text(content)
    assert read_status(tmp_path) is None
