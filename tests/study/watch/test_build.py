"""The process that builds a page: what it says, and what becomes of it when it fails."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pytest

from study.watch.build import Build, Built

MUCH = "head -c 300000 /dev/zero | tr '\\0' x"  # more than a pipe holds


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _interpreter(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A shell script in place of the interpreter; its arguments are -m, the module, the output folder and where to write."""
    path = folder / "interpreter"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def _result(build: Build) -> Built:
    deadline = time.monotonic() + 90
    while (built := build.result()) is None:
        if time.monotonic() > deadline:
            build.stop()
            pytest.fail("the build does not end")
        time.sleep(0.01)
    return built


def test_a_build_that_says_much_ends(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _interpreter(tmp_path, monkeypatch, f"{MUCH}; {MUCH} >&2; printf page > $4/report.html; echo; echo 1.5")
    assert _result(Build(tmp_path)) == Built(b"page", 1.5)
    assert list(temporary.iterdir()) == []


def test_why_a_build_failed_is_its_last_line(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _interpreter(tmp_path, monkeypatch, f"{MUCH} >&2; echo >&2; echo no study in the store >&2; exit 1")
    assert _result(Build(tmp_path)) == Built(None, problem="no study in the store")
    _interpreter(tmp_path, monkeypatch, "kill -9 $$")
    assert _result(Build(tmp_path)) == Built(None, problem="the build was killed")
    assert list(temporary.iterdir()) == []


def test_a_build_that_is_stopped_leaves_nothing(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interpreter(tmp_path, monkeypatch, "exec sleep 60")
    build = Build(tmp_path)
    assert build.result() is None
    build.stop()
    assert list(temporary.iterdir()) == []


def test_a_build_that_cannot_start_raises_and_leaves_nothing(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(OSError, match="missing"):
        Build(tmp_path)
    assert list(temporary.iterdir()) == []
