"""How many examples a fuzz test draws, from which seed, and what every one of them must keep to."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, seed, settings
from typer.testing import Result

T = TypeVar("T", bound=Callable[..., None])

FACTOR = float(os.environ.get("FUZZ_FACTOR", "1"))  # times the usual number of examples
SEED = int(os.environ.get("FUZZ_SEED", "20240607"))
LONGEST_LINE = 12_000  # characters: a value of 10,000 may be repeated


def fuzzed(examples: int) -> Callable[[T], T]:
    """A seeded hypothesis test of so many examples, times FUZZ_FACTOR."""
    chosen = settings(
        max_examples=max(1, round(examples * FACTOR)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    return lambda test: seed(SEED)(chosen(test))


def problem_of(ran: Result, logged: str = "") -> str | None:
    """What is wrong with the end of a command: it must exit with 0, 1 or 2, and say why in a line where it refuses."""
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        return f"raised {ran.exception!r}"
    if "Traceback (most recent call last)" in ran.output + logged:
        return f"printed a traceback: {(ran.output + logged)[-2000:]}"
    if ran.exit_code not in (0, 1, 2):
        return f"exit code {ran.exit_code}"
    if ran.exit_code == 0:
        return None
    if not ran.stderr.strip() and not ran.stdout.strip():
        return "failed without a word"
    if ran.exit_code == 2 and "error" not in ran.stderr.lower():
        return f"refused without a reason: {ran.stderr[-500:]}"
    if long := [line for line in ran.stderr.splitlines() if len(line) > LONGEST_LINE]:
        return f"a line of {len(long[0])} characters"
    return None


@dataclass
class Writes:
    """Paths that this process opened for writing, created or renamed to, in the last `watched` block."""

    paths: list[Path] = field(default_factory=list)
    active: bool = False

    def outside(self, folder: Path) -> list[Path]:
        """Those that are not below the folder, without Python's byte code and devices."""
        return [
            path
            for path in self.paths
            if not path.is_relative_to(folder) and "__pycache__" not in path.parts and path.parts[1:2] != ("dev",)
        ]

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        match event:
            case "open":
                path, _, flags = arguments
                named = [path] if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else []
            case "os.mkdir":
                named = [arguments[0]]
            case "sqlite3.connect":  # a path, or an SQLite URI
                named = [os.fsdecode(arguments[0]).removeprefix("file:").partition("?")[0]]
            case "os.rename" | "os.link" | "os.symlink":
                named = [arguments[1]]
            case _:
                return
        for path in named:
            if isinstance(path, (str, bytes, os.PathLike)) and os.fspath(path) not in ("", b"", ":memory:"):
                self.paths.append(Path(os.path.abspath(os.fsdecode(path))))


_WRITES = Writes()
_hooked: list[bool] = []


@contextmanager
def watched_writes() -> Iterator[Writes]:
    """Meanwhile what this process writes is noted. The hook itself stays: Python removes none."""
    if not _hooked:
        sys.addaudithook(_WRITES.note)
        _hooked.append(True)
    _WRITES.paths, _WRITES.active = [], True
    try:
        yield _WRITES
    finally:
        _WRITES.active = False


def keep_inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home, temporary files and the current folder below `folder`; the current folder, deep enough for a `../..`."""
    current = folder / "a" / "b" / "c"
    for path in (current, folder / "home", folder / "tmp"):
        path.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    monkeypatch.chdir(current)
    return current
