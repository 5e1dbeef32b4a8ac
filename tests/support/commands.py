"""The command line as a user runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class CommandResult:
    """A finished command: exit code, standard output and error, process id."""

    code: int
    out: str
    err: str
    pid: int = 0

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on the last line of standard output."""
        document: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return document


def study_command(
    *arguments: str, timeout_s: float = 900, environment: Mapping[str, str] | None = None
) -> CommandResult:
    """`python -m study ...`, in the repository's root.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    command = subprocess.Popen(
        [sys.executable, "-m", "study", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "160", **(environment or {})},
    )
    try:
        out, err = command.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        command.kill()
        command.communicate()
        raise
    return CommandResult(command.returncode, out, err, command.pid)


@contextmanager
def started_command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m study ...` while the block runs, with pipes for its output; killed where the block leaves it running."""
    command = [sys.executable, "-m", "study", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()
