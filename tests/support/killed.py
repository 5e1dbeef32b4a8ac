"""The note that a training leaves whose process was killed, without killing one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from trainables.training.attempts import Attempt, noted

_running: list[AbstractContextManager[None]] = []  # a context that is collected removes its note


def leave_note(output: Path, job: str, attempt: Attempt) -> None:
    """Note a training that never ends."""
    context = noted(output, job, attempt)
    context.__enter__()
    _running.append(context)
