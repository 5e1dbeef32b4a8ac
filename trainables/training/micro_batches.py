"""What was learnt of micro-batches that a device did not hold: noted in the output folder, for the stages that are alike.

A note belongs to what takes the memory: the sort of stage with its number of tokens (`Stage.memory_key`), and the resources
that say what lies on which device. What fits one stage says nothing about another, whose entries are other numbers of rows, and
what fits one accelerator nothing about the next.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.store.fingerprint import fingerprint

if TYPE_CHECKING:  # importing it imports DeepSpeed
    from trainables.resources import Resources

logger = logging.getLogger(__name__)

Limits = Mapping[str, int]  # by the memory key of a stage, the largest micro-batch to try
NO_MATTER = ("micro_batch", "checkpoint_every_s", "fewest_workers")  # of the resources, for what fits a device


@dataclass(frozen=True)
class _Subject:
    """What a note is about; its fingerprint names the note's file."""

    stage: str
    resources: tuple[tuple[str, str], ...]


def limits(output: Path, resources: Resources) -> dict[str, int]:
    """What is noted for these resources. Files that are no notes, or of another form, are passed over."""
    found: dict[str, int] = {}
    for path in sorted(_folder(output).glob("*.json")):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            stage, noted, fits = note["stage"], note["resources"], note["micro_batch"]
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if isinstance(stage, str) and isinstance(fits, int) and fits >= 1 and noted == _what_decides(resources):
            found[stage] = fits
    return found


def note(output: Path, resources: Resources, stage: str, micro_batch: int, *, because: str) -> None:
    """Note the largest micro-batch to try. Written whole or not at all: trials write and read it at the same time."""
    decides = _what_decides(resources)
    name = fingerprint(_Subject(stage, tuple((key, json.dumps(value)) for key, value in sorted(decides.items()))))
    content = {"stage": stage, "resources": decides, "micro_batch": micro_batch, "because": because}
    _folder(output).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=_folder(output), delete=False, encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(file.name, _folder(output) / f"{stage}@{name}.json")


def _folder(output: Path) -> Path:
    return output / "micro_batches"


def _what_decides(resources: Resources) -> dict[str, Any]:
    return {name: value for name, value in asdict(resources).items() if name not in NO_MATTER}
