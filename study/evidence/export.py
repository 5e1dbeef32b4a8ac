"""Writes the evidence of an output folder to a bundle: what was measured, and what it was counted from.

What leaves the machine by default is what a licence of data seldom forbids: ids, labels, tags, and answers with their words
numbered. Texts of the data stay, whether in words or as the token ids of tokenised sets. So do the machine's folders: of a path
in the study's command, the last part is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import analysis
from analysis.store.saved import examples_path
from study.evidence.archive import write_archive
from study.evidence.bundle import STUDY, TABLES, about, report_members, run_folder
from study.redact import without_folders
from trainables.store.answers import ANSWERS, TEXTS
from trainables.store.examples import EXAMPLES
from trainables.store.manifests import MANIFEST
from trainables.store.opening import open_store
from trainables.store.versions import versions

OF_TEXTS = ("tokenise-", "vectors-")  # labels of stages that hold the data's texts, or vectors of them
EVIDENCE = (EXAMPLES, ANSWERS)


@dataclass(frozen=True)
class Exported:
    """A written bundle: its sha256, its stages, its evaluations, and those without predictions."""

    path: Path
    sha256: str
    stages: int
    evaluations: int
    without_answers: int


def export(
    frames: analysis.StudyFrames,
    output: Path,
    path: Path,
    *,
    texts: bool = False,
    weights: bool = False,
    page: bool = True,
) -> Exported:
    """Write the bundle of an output folder whose tables are `frames`.

    Args:
        texts: with answers in words, where scores compare words.
        weights: with the files of every stage but tokenised sets and vectors of sentences, which hold the data.
        page: with the report's page, which holds its libraries; `report` writes it again from a bundle.

    Raises:
        OSError: a file cannot be read, or the bundle cannot be written.
    """
    run = run_folder(0)
    members: dict[str, Path | bytes] = dict(_kept_files(output, run))
    stages = list(open_store(output).copies(lambda stage, name: _travels(stage, name, texts=texts, weights=weights)))
    for folder, files in stages:
        for name in (MANIFEST, *(name for name in files if _travels(folder.name, name, texts=texts, weights=weights))):
            if (folder / name).is_file():
                members[f"{run}stages/{folder.name}/{name}"] = folder / name
    with tempfile.TemporaryDirectory() as temporary:
        tables = analysis.save(_without_folders(frames), Path(temporary) / TABLES)
        members[run + TABLES] = tables
        if (examples := examples_path(tables)).is_file():
            members[run + examples.name] = examples
        members |= report_members(analysis.read_saved(tables), page=page)
        sha256 = write_archive(path, members, about(frames, versions=versions(), texts=texts, weights=weights, runs=1))
    scored = [files for _, files in stages if EXAMPLES in files]
    return Exported(path, sha256, len(stages), len(scored), sum(ANSWERS not in files for files in scored))


def _without_folders(frames: analysis.StudyFrames) -> analysis.StudyFrames:
    """The same tables, with the command as others may read it."""
    command = frames.context.get("command")
    return (
        frames if command is None else replace(frames, context=frames.context | {"command": without_folders(command)})
    )


def _travels(stage: str, name: str, *, texts: bool, weights: bool) -> bool:
    """Whether a file of a stage goes into the bundle."""
    if name in EVIDENCE:
        return True
    if name == TEXTS:
        return texts
    return weights and not stage.startswith(OF_TEXTS)


def _kept_files(output: Path, run: str) -> Iterator[tuple[str, Path]]:
    """The identity of the study, measurements with their context and scores by example, and recorded divergences."""
    patterns = (STUDY, "benchmarks/*.json", "benchmarks/*/*.json", "failures/*.json")
    for pattern in (*patterns, *(f"benchmarks/*/{name}" for name in EVIDENCE)):
        for path in output.glob(pattern):
            if path.is_file() and not path.name.startswith("."):
                yield run + path.relative_to(output).as_posix(), path
