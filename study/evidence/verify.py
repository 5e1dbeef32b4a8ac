"""Finds the faults of a bundle: damage, scores that predictions do not give, and tables that the evidence does not give.

It needs no model, no data and no network. It finds what does not fit together. Whoever changes predictions, sums, manifests,
tables and the index alike makes another consistent bundle; against that, publish the sha256 that `export` prints. What is there
and cannot be checked is remarked on.
"""

from __future__ import annotations

import csv
import io
import re
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
    digests_by_task,
    mean_faults,
    score_faults,
    served_faults,
    served_scores,
    sums_digest,
)
from study.evidence.archive import Archive, BadArchive
from study.evidence.bundle import REPORT_TABLES, STUDY, joined, read_json, read_run, read_table, runs_of
from study.evidence.cascades import cascade_faults
from study.evidence.labels import Identity, Settings, label_faults
from study.evidence.recount import MALFORMED, close, recount_faults
from trainables.store.answers import ANSWERS
from trainables.store.examples import EXAMPLES
from trainables.store.fingerprint import fingerprint_of_canonical
from trainables.store.manifests import MANIFEST

MOST_OF_A_KIND = 10  # faults of one member that are named; the rest are counted
REPORT_TOLERANCE = 1e-4  # relative; resampled intervals are computed in 32 bits, and round as the machine does
BY_EARLIER = "not recomputable: made by an earlier version"
# Members outside stages, whose files their manifests list.
_KNOWN = re.compile(
    r"report\.html|report/[^/]+\.csv|runs/(0|[1-9][0-9]*)/"
    r"(tables\.json|tables\.examples\.parquet|study\.json|failures/[^/]+\.json"
    r"|benchmarks/[^/]+(/[^/]+)?\.json|benchmarks/[^/]+/(examples|answers)\.parquet)"
)


@dataclass
class Verified:
    """Faults, one line each; remarks; and how many evaluations there are and were recomputed from their predictions.

    `of_stages`: the members that belong to a stage, as its manifest says.
    """

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    files: int = 0
    evaluations: int = 0
    recounted: int = 0
    of_stages: set[str] = field(default_factory=set)

    @property
    def summary(self) -> str:
        """What was checked, in a line."""
        faults = f"{len(self.faults) or 'no'} fault{'' if len(self.faults) == 1 else 's'}"
        return f"{self.files} files, {self.evaluations} evaluations, {self.recounted} of them recomputed: {faults}"

    def add(self, where: str, problems: Iterable[str]) -> None:
        """Record problems of a member or run; a bundle that cannot be read further is a problem too."""
        self.faults += _lines(where, _until_unreadable(problems))

    def remark(self, where: str, remarks: Iterable[str]) -> None:
        """Record what is no fault, and was not checked."""
        self.remarks += _lines(where, iter(remarks))


def _lines(where: str, problems: Iterator[str]) -> Iterator[str]:
    """A line for each of the first problems, and one for the number of the others."""
    for problem in islice(problems, MOST_OF_A_KIND):
        yield _printable(f"{where}: {problem}")
    if more := sum(1 for _ in problems):
        yield _printable(f"{where}: and {more} more")


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
        unknown = (
            name for name in sorted(archive.files) if not _KNOWN.fullmatch(name) and name not in verified.of_stages
        )
        verified.remark("not part of a bundle, so not checked", unknown)
    return verified


def _verify_run(archive: Archive, run: str, verified: Verified) -> analysis.StudyFrames | None:
    """Check a run by itself; its tables, or None where they cannot be read."""
    evaluations, identities = _verify_stages(archive, f"{run}stages/", verified)
    documents, served = _verify_benchmarks(archive, f"{run}benchmarks/", verified)
    try:
        frames = read_run(archive, run, checked=False)
    except ValueError as error:
        verified.add(run, [str(error)])
        return None
    verified.add(f"{run}tables.json", score_faults(frames, evaluations))
    verified.add(f"{run}tables.json", mean_faults(frames))
    verified.add(f"{run}tables.json", benchmark_faults(frames, documents))
    verified.add(f"{run}tables.json", served_faults(frames, served))
    _verify_labels(archive, run, frames, identities, verified)
    return frames


def _verify_labels(
    archive: Archive, run: str, frames: analysis.StudyFrames, identities: Mapping[str, Identity], verified: Verified
) -> None:
    """Check the trials' choices and seeds, where trials name their evaluations."""
    naming = set(frames.evaluations[["size", "trial_id"]].itertuples(index=False, name=None))
    scored = set(frames.scores[["size", "trial_id"]].itertuples(index=False, name=None))
    if unnamed := len(scored - naming):
        verified.remark(f"{run}tables.json", [f"{unnamed} trials name no evaluation: choice and seed are not checked"])
    try:
        settings = Settings.of(read_json(archive, run + STUDY), frames.context)
    except (BadArchive, KeyError, TypeError, ValueError) as error:
        verified.remark(run + STUDY, [f"does not fit the tables, so choices and seeds are not checked ({error})"])
        return
    verified.add(f"{run}tables.json", label_faults(frames, identities, settings))


def _verify_stages(
    archive: Archive, folder: str, verified: Verified
) -> tuple[dict[str, Evaluation], dict[str, Identity]]:
    """Check every stage's manifest and files, and count evaluations again.

    The evaluations and their identities, by the names of their folders.
    """
    evaluations: dict[str, Evaluation] = {}
    identities: dict[str, Identity] = {}
    without_answers = 0
    for name in sorted(name for name in archive.files if name.startswith(folder) and name.endswith(f"/{MANIFEST}")):
        stage = name.removeprefix(folder).removesuffix(f"/{MANIFEST}")
        try:
            manifest = read_json(archive, name)
            verified.of_stages |= {name, *(f"{folder}{stage}/{file}" for file in _files_of(manifest))}
            verified.add(name, _manifest_faults(archive, manifest, folder=f"{folder}{stage}/"))
            if EXAMPLES not in _files_of(manifest):
                continue
            verified.evaluations += 1
            sums = read_table(archive, f"{folder}{stage}/{EXAMPLES}")
            evaluations[stage] = Evaluation(manifest["metrics"], sums_digest(sums))
            identities[stage] = manifest["identity"]
            if ANSWERS not in _files_of(manifest):
                without_answers += 1
                continue
            verified.recounted += 1
            answers = read_table(archive, f"{folder}{stage}/{ANSWERS}")
            verified.add(f"{folder}{stage}/{ANSWERS}", recount_faults(answers, sums, manifest["metrics"]))
        except (BadArchive, KeyError, TypeError) as error:
            verified.add(name, [f"cannot be checked ({error})"])
    if without_answers:
        verified.remark(folder, [f"{without_answers} evaluations are {BY_EARLIER}"])
    return evaluations, identities


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


def _verify_benchmarks(
    archive: Archive, folder: str, verified: Verified
) -> tuple[dict[str, Mapping[str, Any]], dict[str, Mapping[str, str]]]:
    """Check the scores of measurements where they have predictions, and which model of a cascade answered.

    The measurements, and the digests of their scores by example (by task), by the names of their files.
    """
    documents: dict[str, Mapping[str, Any]] = {}
    digests: dict[str, Mapping[str, str]] = {}
    without_answers = 0
    for name in sorted(archive.files):
        file = name.removeprefix(folder)
        if not name.startswith(folder) or "/" in file or not file.endswith(".json"):
            continue
        try:
            documents[file] = document = read_json(archive, name)
            examples, answers = (f"{name.removesuffix('.json')}/{of}" for of in (EXAMPLES, ANSWERS))
            if {examples, answers} & archive.files.keys():
                sums = read_table(archive, examples)
                digests[file] = digests_by_task(sums)
                verified.add(examples, cascade_faults(document, sums))
            if answers in archive.files:
                tables = read_table(archive, answers)
                for task, metrics in served_scores(document).items():
                    verified.add(f"{answers}: {task}", recount_faults(_of(tables, task), _of(sums, task), metrics))
            elif served_scores(document):
                without_answers += 1
        except (BadArchive, KeyError, TypeError, AttributeError) as error:
            verified.add(name, [f"cannot be checked ({error})"])
    if without_answers:
        verified.remark(
            folder, [f"scores of {without_answers} measurements have no predictions here: not recomputable"]
        )
    return documents, digests


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
