"""Finds the faults of a bundle: damage, scores that predictions do not give, and tables that the evidence does not give.

It needs no model, no data and no network. It finds what does not fit together. Whoever changes predictions, sums, manifests,
tables and the index alike makes another consistent bundle; against that, publish the sha256 that `export` prints. Not checked:
that a trial's choice and seed are those of its evaluations, and scores of a variant whose predictions are not there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

import analysis
from study.evidence.agreement import (
    Evaluation,
    benchmark_faults,
    mean_faults,
    score_faults,
    served_scores,
    sums_digest,
)
from study.evidence.archive import Archive, BadArchive
from study.evidence.bundle import REPORT_TABLES, joined, read_json, read_run, read_table, runs_of
from study.evidence.recount import MALFORMED, close, recount_faults
from trainables.store.answers import ANSWERS
from trainables.store.examples import EXAMPLES
from trainables.store.fingerprint import fingerprint_of_canonical
from trainables.store.manifests import MANIFEST

MOST_OF_A_KIND = 10  # faults of one member that are named; the rest are counted
REPORT_TOLERANCE = 1e-4  # relative; resampled intervals are computed in 32 bits, and round as the machine does
BY_EARLIER = "not recomputable: made by an earlier version"


@dataclass
class Verified:
    """Faults, one line each; remarks; and how many evaluations there are and were counted again from their predictions."""

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    files: int = 0
    evaluations: int = 0
    recounted: int = 0

    def add(self, where: str, problems: Iterable[str]) -> None:
        """Record problems of a member or run; a bundle that cannot be read further is a problem too."""
        problems = _until_unreadable(problems)
        for problem in islice(problems, MOST_OF_A_KIND):
            self.faults.append(_printable(f"{where}: {problem}"))
        if more := sum(1 for _ in problems):
            self.faults.append(_printable(f"{where}: and {more} more"))


def _until_unreadable(problems: Iterable[str]) -> Iterator[str]:
    try:
        yield from problems
    except BadArchive as error:
        yield str(error)
    except MALFORMED as error:
        yield f"cannot be checked ({type(error).__name__}: {error})"


def _printable(text: str) -> str:
    """One line, without what a terminal would act on."""
    return "".join(character if character.isprintable() else "?" for character in text)


def verify(path: Path) -> Verified:
    """Every fault of a bundle. A bundle that cannot be opened has this one fault.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    verified = Verified()
    try:
        archive = Archive(path)
    except BadArchive as error:
        verified.add(path.name, [str(error).removeprefix(f"{path}: ")])
        return verified
    with archive:
        verified.files = len(archive.files)
        for name, problem in archive.faults():
            verified.add(name, [problem])
        frames = [run_frames for run in runs_of(archive) if (run_frames := _verify_run(archive, run, verified))]
        if len(frames) == len(runs_of(archive)):
            verified.add("report", _report_faults(archive, frames))
    return verified


def _verify_run(archive: Archive, run: str, verified: Verified) -> analysis.StudyFrames | None:
    """Check a run by itself; its tables, or None where they cannot be read."""
    evaluations = _verify_stages(archive, f"{run}stages/", verified)
    documents = _verify_benchmarks(archive, f"{run}benchmarks/", verified)
    try:
        frames = read_run(archive, run, checked=False)
    except ValueError as error:
        verified.add(run, [str(error)])
        return None
    for check in (score_faults(frames, evaluations), mean_faults(frames), benchmark_faults(frames, documents)):
        verified.add(f"{run}tables.json", check)
    return frames


def _verify_stages(archive: Archive, folder: str, verified: Verified) -> dict[str, Evaluation]:
    """Check every stage's manifest and files, and count evaluations again; the evaluations by the names of their folders."""
    evaluations: dict[str, Evaluation] = {}
    without_answers = 0
    for name in sorted(name for name in archive.files if name.startswith(folder) and name.endswith(f"/{MANIFEST}")):
        stage = name.removeprefix(folder).removesuffix(f"/{MANIFEST}")
        try:
            manifest = read_json(archive, name)
            verified.add(name, _manifest_faults(archive, manifest, folder=f"{folder}{stage}/"))
            if EXAMPLES not in _files_of(manifest):
                continue
            verified.evaluations += 1
            sums = read_table(archive, f"{folder}{stage}/{EXAMPLES}")
            evaluations[stage] = Evaluation(manifest["metrics"], sums_digest(sums))
            if ANSWERS not in _files_of(manifest):
                without_answers += 1
                continue
            verified.recounted += 1
            answers = read_table(archive, f"{folder}{stage}/{ANSWERS}")
            verified.add(f"{folder}{stage}/{ANSWERS}", recount_faults(answers, sums, manifest["metrics"]))
        except (BadArchive, KeyError, TypeError) as error:
            verified.add(name, [f"cannot be checked ({error})"])
    if without_answers:
        verified.remarks.append(f"{folder}: {without_answers} evaluations are {BY_EARLIER}")
    return evaluations


def _files_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    files = manifest.get("files")
    return files if isinstance(files, dict) else {}


def _manifest_faults(archive: Archive, manifest: Mapping[str, Any], *, folder: str) -> Iterator[str]:
    """What of a stage differs from its manifest; files that did not travel are none of it, but evidence has to."""
    identity = manifest.get("identity")
    if not folder.endswith(f"@{fingerprint_of_canonical(identity)}/"):
        yield "is of another identity than its folder's name says"
    for name, entry in _files_of(manifest).items():
        member = archive.files.get(folder + name)
        if member is None:
            if name in (EXAMPLES, ANSWERS):
                yield f"lists {name}, which is missing"
        elif not isinstance(entry, dict) or any(entry.get(key) != member[key] for key in ("bytes", "sha256")):
            yield f"{name} is not the file that the stage wrote"


def _verify_benchmarks(archive: Archive, folder: str, verified: Verified) -> dict[str, Mapping[str, Any]]:
    """Check the scores of measurements where they have predictions; the measurements by the names of their files."""
    documents: dict[str, Mapping[str, Any]] = {}
    for name in sorted(archive.files):
        file = name.removeprefix(folder)
        if not name.startswith(folder) or "/" in file or not file.endswith(".json"):
            continue
        try:
            documents[file] = document = read_json(archive, name)
            answers = f"{name.removesuffix('.json')}/{ANSWERS}"
            if answers in archive.files:
                sums = read_table(archive, f"{name.removesuffix('.json')}/{EXAMPLES}")
                tables = read_table(archive, answers)
                for task, metrics in served_scores(document).items():
                    verified.add(f"{answers}: {task}", recount_faults(_of(tables, task), _of(sums, task), metrics))
        except (BadArchive, KeyError, TypeError, AttributeError) as error:
            verified.add(name, [f"cannot be checked ({error})"])
    return documents


def _of(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """A task's rows, with plain text in the columns that name sets."""
    return table[table["task"].astype(str) == task].astype({"split": str, "language": str})


def _report_faults(archive: Archive, runs: list[analysis.StudyFrames]) -> Iterator[str]:
    """Tables of the report that the runs' tables do not give."""
    try:
        _, expected = analysis.report_with_tables(joined(runs, archive.path))
    except Exception as error:  # whatever a table with foreign values makes of the analyses
        yield f"cannot be computed from the tables ({type(error).__name__}: {error})"
        return
    kept = {name.removeprefix(REPORT_TABLES) for name in archive.files if name.startswith(REPORT_TABLES)}
    for name in sorted(expected.keys() | kept):
        if name not in expected:
            yield f"{name} is no table of this version's report"
        elif name not in kept:
            yield f"{name} is missing"
        else:
            text = archive.read(REPORT_TABLES + name, checked=False).decode(errors="replace")
            if (problem := table_difference(text, expected[name])) is not None:
                yield f"{name}: {problem}"


def table_difference(text: str, expected: str) -> str | None:
    """Where one table as CSV differs from another, beyond the rounding of numbers; None if it does not."""
    empty: list[str] = []
    rows = zip_longest(csv.reader(io.StringIO(text)), csv.reader(io.StringIO(expected)), fillvalue=empty)
    for number, (row, wanted) in enumerate(rows):
        for column, (cell, other) in enumerate(zip_longest(row, wanted, fillvalue=""), start=1):
            if cell != other and not _close_cells(cell, other):
                return f"row {number}, column {column} is {cell!r}; the tables of the runs give {other!r}"
    return None


def _close_cells(cell: str, other: str) -> bool:
    try:
        return close(float(cell), float(other), REPORT_TOLERANCE)
    except ValueError:
        return False
