"""Shared by the tests of analysis: parts of a page, rows by key, small studies of default cells."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import analysis
from analysis import StudyFrames
from analysis.store import frames as tables
from analysis.store.frames import MEAN


def write(frames: StudyFrames, folder: Path, **options: Any) -> str:
    """The report as written, without exported files."""
    return analysis.write_report(frames, folder / "report.html", exports=False, **options).read_text(encoding="utf-8")


def header(page: str) -> str:
    """The text of the part that answers the question."""
    return _text(page[page.index("<header>") : page.index("</header>")])


def section(page: str, title: str) -> str:
    """The text of the section with this title, tags removed; cells and paragraphs end with a line break."""
    (body,) = [part for part in re.split(r"(?=<section)", page) if f"<h2>{html.escape(title)}</h2>" in part]
    return _text(body[: body.index("</section>")])


def _text(body: str) -> str:
    body = re.sub(r'aria-label="([^"]*)"[^>]*>', r">[\1]\n", body)
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"</(?:p|td|th|li|h\d|span|caption|summary|dd)>", "\n", body)))


def by(table: pd.DataFrame, *names: str) -> dict[Any, dict[str, Any]]:
    """Rows by one column's value, or by a tuple of several columns'."""
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    return {row[names[0]] if len(names) == 1 else tuple(row[name] for name in names): row for row in rows}


def of_size(frames: StudyFrames, size: str) -> StudyFrames:
    """The study with this size alone."""
    parts = {name: getattr(frames, name) for name in ("sizes", "trials", "scores", "benchmarks")}
    return dataclasses.replace(frames, **{name: table[table["size"] == size] for name, table in parts.items()})


def with_chance(frames: StudyFrames, chance: dict[str, float]) -> StudyFrames:
    """The study with the score of guessing of each target recorded."""
    scores = frames.scores.assign(chance=frames.scores["task"].map(chance).astype("float64"))
    return dataclasses.replace(frames, scores=scores)


def default_cells(
    cells: dict[str, float] | dict[str, dict[str, float]],
    *,
    sd: float,
    seeds: int,
    targets: tuple[str, ...] = ("x",),
) -> StudyFrames:
    """A study of default cells only, from true scores by intermediate task, or by size and intermediate task.

    Bodies double from size to size; measured scores have a standard deviation of `sd` over seeds.
    """
    by_size: dict[str, dict[str, float]] = cells if isinstance(next(iter(cells.values())), dict) else {"a": cells}  # type: ignore[assignment,dict-item]
    random = np.random.default_rng(0)
    trials, scores, sizes = [], [], []
    for place, (size, true) in enumerate(by_size.items()):
        sizes.append({"size": size, "params_m": 2.0**place + 1, "params_body_m": 2.0**place, "best_trial": ""})
        for number, (intermediate, value) in enumerate(true.items()):
            for seed in range(seeds):
                key: dict[str, Any] = {"size": size, "trial_id": f"t{number}-{seed}", "intermediate": intermediate}
                key |= {"default_cell": True, "outcome": "complete"}
                measured = value + random.normal(0, sd)
                rates = {"lr_intermediate": None if intermediate == "none" else 1e-4, "lr_target": 1e-3, "seed": seed}
                rest = {
                    "kind": "trial",
                    "repeats": "",
                    "reason": "",
                    "constant": "",
                    "dev_score": measured,
                    "test_score": measured,
                }
                trials.append(key | rates | rest | {"targets_finished": len(targets)})
                scores += [
                    key | {"task": task, "split": "test", "language": MEAN, "value": measured} for task in targets
                ]
    context: dict[str, Any] = {"experiment": "made", "targets": list(targets), "marks": {}}
    context |= dict.fromkeys(("command", "hardware", "precision", "seed", "selection"))
    context |= {name: {} for name in ("versions", "languages", "protocols", "data", "metrics", "pretraining")}
    return StudyFrames(
        sizes=tables.frame(sizes, tables.SIZES),
        trials=tables.frame(trials, tables.TRIALS),
        scores=tables.frame(scores, tables.SCORES),
        benchmarks=tables.frame((), tables.BENCHMARKS),
        context=context | {"intermediates": list(next(iter(by_size.values())))},
    )
