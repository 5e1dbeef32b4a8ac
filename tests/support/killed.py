"""The record that a training leaves whose process was killed, without killing one."""

from __future__ import annotations

from pathlib import Path

from trainables.training.attempts import Attempt, recorded_attempt


def leave_record(output: Path, job: str, attempt: Attempt) -> None:
    """Record a training that never ends."""
    recorded_attempt(output, job, attempt).__enter__()
