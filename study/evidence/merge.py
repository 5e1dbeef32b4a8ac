"""Merges bundles: the runs of several machines or people as one study, each with its own evidence."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.evidence.archive import Archive, write_archive
from study.evidence.bundle import REPORT, about, joined, read_json, read_run, report_members, run_folder, runs_of
from trainables.store.examples import EXAMPLES
from trainables.store.manifests import MANIFEST
from trainables.store.versions import versions


@dataclass(frozen=True)
class Merged:
    """A written bundle: its sha256, its runs, and evaluations that two runs made with different results."""

    path: Path
    sha256: str
    runs: int
    differing: tuple[str, ...]


def merge(sources: Sequence[Path], path: Path) -> Merged:
    """Write one bundle with the runs of all, which must be of one study and differ in sizes or seeds.

    Raises:
        ValueError: a source is no bundle, or damaged; or the runs conflict: the message names what.
        OSError: a file cannot be read or written.
    """
    with ExitStack() as stack:
        archives = [stack.enter_context(Archive(source)) for source in sources]
        runs = [(archive, run) for archive in archives for run in runs_of(archive)]
        frames = joined([read_run(archive, run) for archive, run in runs], path)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent)))
        members: dict[str, Path | bytes] = {}
        for number, (archive, run) in enumerate(runs):
            for name in archive.files:
                if name.startswith(run):
                    copy = folder / str(len(members))
                    archive.copy(name, copy)
                    members[run_folder(number) + name.removeprefix(run)] = copy
        members |= report_members(frames, page=any(REPORT in archive.files for archive in archives))
        flags = {name: any(archive.index.get(name) for archive in archives) for name in ("texts", "weights")}
        sha256 = write_archive(path, members, about(frames, versions=versions(), **flags, runs=len(runs)))
        return Merged(path, sha256, len(runs), tuple(_differing(runs)))


def _differing(runs: Sequence[tuple[Archive, str]]) -> Iterator[str]:
    """Evaluations that several runs made and scored differently, as other machines or versions round differently."""
    seen: dict[str, dict[str, Any]] = {}
    for archive, run in runs:
        for stage, metrics in _evaluations(archive, f"{run}stages/"):
            first = seen.setdefault(stage, metrics)
            if json.dumps(first, sort_keys=True) != json.dumps(metrics, sort_keys=True):
                yield f"{stage}: {_mean(first)} in one run and {_mean(metrics)} in another"


def _evaluations(archive: Archive, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in archive.files:
        if name.startswith(folder) and name.endswith(f"/{MANIFEST}"):
            stage = name.removeprefix(folder).removesuffix(f"/{MANIFEST}")
            if f"{folder}{stage}/{EXAMPLES}" in archive.files:
                yield stage, dict(read_json(archive, name)["metrics"])


def _mean(metrics: Mapping[str, Any]) -> str:
    mean = metrics.get("test_mean")
    return f"{mean:.2f}" if isinstance(mean, (int, float)) else "no score"
