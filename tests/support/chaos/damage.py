"""Cuts files of an interrupted study short, as a crash of its machine may leave them."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.chaos.evidence import JOURNAL, OUTBOX
from tests.support.damage import cut
from trainables.store.manifests import MANIFEST

LOGS = (JOURNAL, f"{OUTBOX}/journal.jsonl")  # of which a crash cuts the last line only
# Whole files that a crash may cut, by what they are.
FILES: dict[str, str] = {
    "a stage's file": "stages/*@*/**/*",
    "a stage's manifest": f"stages/*@*/{MANIFEST}",
    "a checkpoint": "checkpoints/*/step-*/*",
    "a delivery offset": f"{OUTBOX}/receipt-*.json",
    "scores by example": "examples/*/*",
    "Ray Tune's state": "tune/**/*",
    "Ray Train's state": "ray_train/**/*",
}
MOST_FILES = 3


def cut_files(output: Path, draw: random.Random) -> list[Path]:
    """Cut one to three files short, each of another kind; returns their paths."""
    kinds = draw.sample([*FILES, *LOGS], draw.randint(1, MOST_FILES))
    paths = [_last_line(output / kind, draw) if kind in LOGS else _file(output, FILES[kind], draw) for kind in kinds]
    return [path for path in paths if path is not None]


def stage_of(path: Path, output: Path) -> str | None:
    """The stage that a file belongs to; None if it is no stage's."""
    parts = path.relative_to(output).parts
    return parts[1] if parts[0] == "stages" else None


def _file(output: Path, pattern: str, draw: random.Random) -> Path | None:
    files = sorted(path for path in output.glob(pattern) if path.is_file() and path.stat().st_size)
    if pattern == FILES["a stage's file"]:
        files = [path for path in files if path.name != MANIFEST]
    if not files:
        return None
    path = draw.choice(files)
    path.write_bytes(cut(path.read_bytes(), draw))
    return path


def _last_line(path: Path, draw: random.Random) -> Path | None:
    """Cut into the last line of a log, and leave all lines before it."""
    content = path.read_bytes() if path.exists() else b""
    start = content.rfind(b"\n", 0, len(content) - 1) + 1
    if len(content) - start < 2 or not start:
        return None
    path.write_bytes(content[: draw.randrange(start, len(content))])
    return path
