"""What is where in a bundle.

| member | content |
|---|---|
| `bundle.json` | format, study, versions, and size and sha256 of every other member |
| `report.html`, `report/*.csv` | the report, unless it was left out, and its tables |
| `runs/N/tables.json`, `runs/N/tables.examples.parquet` | the tables of a run, as `report --save` writes them |
| `runs/N/study.json` | the identity of its study |
| `runs/N/stages/NAME/` | each stage's manifest; of evaluations the scores by example and their answers |
| `runs/N/benchmarks/`, `runs/N/failures/` | measurements with their context; trainings that diverged |

An exported bundle has one run, a merged one several. Each keeps its own folder, so whatever two machines made of one stage
stays side by side, and the study's tables are those of the runs joined.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import analysis
from analysis.store.saved import examples_path
from study.evidence.archive import Archive, BadArchive
from trainables.store.kept import parse_object

SUFFIX = ".zip"
REPORT, REPORT_TABLES = "report.html", "report/"
TABLES, STUDY = "tables.json", "study.json"
MOST_CELLS = 500_000_000  # of a table; a few bytes of Parquet can claim any number of rows
_RUN = re.compile(r"runs/(0|[1-9][0-9]{0,5})/")


def is_bundle(source: str) -> bool:
    """Whether a source of a report names a bundle."""
    return "://" not in source and Path(source).suffix == SUFFIX


def run_folder(number: int) -> str:
    return f"runs/{number}/"


def runs_of(archive: Archive) -> list[str]:
    """The folders of the runs in the bundle, in order."""
    numbers = {int(match.group(1)) for name in archive.files if (match := _RUN.match(name))}
    return [run_folder(number) for number in sorted(numbers)]


def read_bundle(path: Path) -> analysis.StudyFrames:
    """The study in a bundle, its runs joined.

    Raises:
        ValueError: it is no bundle, or what is read of it has been changed.
        OSError: it cannot be read.
    """
    with Archive(path) as archive:
        return joined([read_run(archive, run) for run in runs_of(archive)], path)


def joined(runs: Sequence[analysis.StudyFrames], path: Path) -> analysis.StudyFrames:
    """The runs of a bundle as one study.

    Raises:
        ValueError: there are none, or they cannot be joined.
    """
    if not runs:
        raise BadArchive(f"{path}: no run in it")
    return runs[0] if len(runs) == 1 else analysis.joined(runs)


def read_run(archive: Archive, run: str, *, checked: bool = True) -> analysis.StudyFrames:
    """A run's tables and scores by example.

    Raises:
        ValueError: they are missing or damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TABLES
        path.write_bytes(archive.read(run + TABLES, checked=checked))
        examples = examples_path(path)
        if run + examples.name in archive.files:
            content = archive.read(run + examples.name, checked=checked)
            _check_cells(content, run + examples.name)
            examples.write_bytes(content)
        try:
            return analysis.read_saved(path)
        except ValueError as error:
            raise BadArchive(f"{run}{TABLES}: {str(error).replace(f'{path.parent}/', '')}") from error


def read_table(archive: Archive, name: str) -> pd.DataFrame:
    """A Parquet member, which need not be what the index vouches for.

    Raises:
        BadArchive: it is missing or cannot be read.
    """
    content = archive.read(name, checked=False)
    try:
        _check_cells(content, name)
        table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
        return table.to_pandas(ignore_metadata=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadArchive(f"{name}: not a table ({' '.join(str(error).split())})") from error


def read_json(archive: Archive, name: str) -> dict[str, Any]:
    """A JSON member, which need not be what the index vouches for, without its seal.

    Raises:
        BadArchive: it is missing, no JSON object, or not what was sealed.
    """
    try:
        return parse_object(archive.read(name, checked=False))
    except BadArchive:
        raise
    except ValueError as error:
        raise BadArchive(f"{name}: {error}") from error


def about(frames: analysis.StudyFrames, **more: Any) -> dict[str, Any]:
    """What a bundle's index says of the study."""
    context = frames.context
    return {name: context.get(name) for name in ("experiment", "targets", "intermediates", "precision")} | more


def report_members(frames: analysis.StudyFrames, *, page: bool) -> dict[str, bytes]:
    """The report's tables, from the tables that the bundle holds, and its page if that is wanted."""
    html, tables = analysis.report_with_tables(frames)
    members = {REPORT_TABLES + name: text.encode() for name, text in tables.items()}
    return members | {REPORT: html.encode()} if page else members


def _check_cells(parquet: bytes, name: str) -> None:
    """Refuse a table too large to read.

    Raises:
        BadArchive: it is, or it is no Parquet.
    """
    try:
        metadata = pq.ParquetFile(io.BytesIO(parquet)).metadata
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadArchive(f"{name}: not a table ({' '.join(str(error).split())})") from error
    if metadata.num_rows * metadata.num_columns > MOST_CELLS:
        raise BadArchive(f"{name}: {metadata.num_rows} rows of {metadata.num_columns} columns are too many to read")
