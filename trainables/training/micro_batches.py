"""Limits on micro-batches that ran out of device memory, recorded in the output folder for similar stages.

A limit depends on what takes the memory: the kind of stage with its number of tokens (`Stage.memory_key`), and the resources
that decide what is on which device. It says nothing about other stages, whose entries have other numbers of rows, or about
other accelerators.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.resources import Resources
from trainables.store.bucket.folder import shared_folder
from trainables.store.fingerprint import fingerprint
from trainables.store.kept import KeptFileUnusable

Limits = Mapping[str, int]  # the largest micro-batch to try, by the memory key of a stage
FOLDER = "micro_batches"
# Resources that do not change what fits a device.
IRRELEVANT = ("micro_batch", "checkpoint_every_s", "fewest_workers", "memory_gb", "one_node")
# Fields that came later. They count where they are set, so that limits recorded before them still hold.
ADDED = ("micro_batch_tokens", "gpu_memory_gb", "bf16_gpu")


@dataclass(frozen=True)
class _Subject:
    """What a limit applies to; its fingerprint names the file."""

    stage: str
    resources: tuple[tuple[str, str], ...]


def known_limits(output: Path, resources: Resources) -> dict[str, int]:
    """The limits recorded for these resources, by memory key. Files with any other content are skipped."""
    limits: dict[str, int] = {}
    folder = shared_folder(output, FOLDER)
    for name in folder.names():
        try:
            record = folder.read(name, ("stage", "resources", "micro_batch"))
        except KeptFileUnusable:
            continue
        if record is None:
            continue
        stage, recorded, micro_batch = record["stage"], record["resources"], record["micro_batch"]
        if (
            isinstance(stage, str)
            and isinstance(micro_batch, int)
            and micro_batch >= 1
            and recorded == _relevant(resources)
        ):
            limits[stage] = micro_batch
    return limits


def record_limit(output: Path, resources: Resources, stage: str, *, micro_batch: int, because: str) -> None:
    """Record the largest micro-batch to try for a memory key. Trials read and write these files at the same time."""
    relevant = _relevant(resources)
    name = fingerprint(_Subject(stage, tuple((key, json.dumps(value)) for key, value in sorted(relevant.items()))))
    content = {"stage": stage, "resources": relevant, "micro_batch": micro_batch, "because": because}
    shared_folder(output, FOLDER).write(f"{stage}@{name}.json", json.dumps(content))


def _relevant(resources: Resources) -> dict[str, Any]:
    relevant = {name: value for name, value in asdict(resources).items() if name not in IRRELEVANT}
    return {name: value for name, value in relevant.items() if value or name not in ADDED}
