"""The front while it forms: of each size the speed measured early and the best English dev score so far."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.storages import JournalStorage

from analysis.tables.tradeoff import pareto_front
from study.benchmarking.early import PROVISIONAL, early_latencies
from study.benchmarking.tables import MISSING
from study.search.journal import JOURNAL, open_journal
from study.search.sweep import load_result
from study.spec import Study


def front_so_far(study: Study, output: Path, *, storage: JournalStorage) -> pd.DataFrame:
    """One row a size, in the study's order: `size`, `p50_ms` and `dev_score` (NaN if not known yet), and `on_front`.

    Dev scores choose between trials; the front of the report is that of test scores, with speeds measured again.
    """
    latencies = early_latencies(study, output)
    best = {size.name: load_result(study, size, storage=storage)[0].best for size in study.sizes}
    scores = {name: None if trial is None else trial.dev_score for name, trial in best.items()}
    rows = [(size.name, latencies.get(size.name), scores[size.name]) for size in study.sizes]
    table = pd.DataFrame(rows, columns=["size", "p50_ms", "dev_score"])
    table = table.astype({"p50_ms": "float64", "dev_score": "float64"})
    return table.assign(on_front=pareto_front(table, cost="p50_ms", benefit="dev_score"))


def front_line(table: pd.DataFrame) -> str:
    """The front so far in a line, the fastest size first."""
    parts = [_size_in_words(row) for row in table.sort_values("p50_ms", kind="stable").to_dict("records")]
    return f"front so far (p50 {PROVISIONAL}; best English dev): {'; '.join(parts)}"


def stored_front_line(study: Study, output: Path) -> str | None:
    """The line of an output folder, also while a run uses it; None where no size's speed was measured early.

    Raises:
        TrialStoreBroken: the journal of its searches cannot be read.
    """
    if not early_latencies(study, output):
        return None
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # opening a journal repairs it, which only the run in the folder may do
        if (output / JOURNAL).is_file():
            shutil.copyfile(output / JOURNAL, Path(folder) / JOURNAL)
        return front_line(front_so_far(study, output, storage=open_journal(Path(folder))))


def _size_in_words(row: Mapping[Any, Any]) -> str:
    p50_ms, dev = (None if pd.isna(row[name]) else float(row[name]) for name in ("p50_ms", "dev_score"))
    speed = MISSING if p50_ms is None else f"{p50_ms:.2f} ms"
    if dev is None:
        return f"{row['size']} {speed}, no complete trial"
    return f"{row['size']} {speed}, {dev:.1f}{'' if row['on_front'] or p50_ms is None else ' (dominated)'}"
