"""The tables of grades in docs/estimators.md, from the committed documents of `tests.benchmarks.estimators`.

    python -m tests.benchmarks.estimators_results [--write]

Reads `docs/measured/estimators/SOURCE.json` of each source that was measured. Grades are computed again from the estimates and
scores in it. `--write` puts the tables into the page, between `<!-- NAME -->` and `<!-- /NAME -->`. A test compares the page
with what this prints. The last line is one JSON document: which sources were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from analysis.tables.estimates.grades import KS, summary
from analysis.tables.formatting import counted, interval, p_value, signed
from study.spec import NONE
from tests.benchmarks.estimators import SAVED, Source
from tests.benchmarks.laptop_results import DOCS, filled, markdown

PAGE = DOCS / "estimators.md"
ESTIMATE = ["estimator", "size", "target", "intermediate", "value"]


def main(
    write: Annotated[bool, typer.Option("--write", help="put the tables into docs/estimators.md")] = False,
) -> None:
    """Print every table, and one JSON line."""
    tables = blocks()
    for name, text in tables.items():
        print(f"## {name}\n\n{text}\n")
    if write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(json.dumps({"measured": [source.value for source in Source if _path(SAVED, source).is_file()]}))


def blocks(folder: Path = SAVED) -> dict[str, str]:
    """The page's tables by name; a source without a document says so."""
    texts = {}
    for source in Source:
        path = _path(folder, source)
        known = path.is_file()
        texts[f"estimators-{source.value}"] = (
            graded(json.loads(path.read_text(encoding="utf-8"))) if known else "Not measured yet."
        )
    return texts


def _path(folder: Path, source: Source) -> Path:
    return folder / f"{source.value}.json"


def graded(document: Mapping[str, Any]) -> str:
    """How the estimators of a document did: what they were graded by, in a sentence, and a row for each."""
    scores = pd.DataFrame(document["scores"])
    grades = summary(estimates_in(document), scores)
    costs = {ranking["estimator"]: ranking for ranking in document["rankings"]}
    rows = [
        [
            *(f"`{row['estimator']}`", row["targets"]),
            *(f"{row[f'regret_{k}']:.1f} ({row[f'random_regret_{k}']:.1f})" for k in KS),
            f"{signed(row['spearman'], 2)} {interval(row['spearman_low'], row['spearman_high'], 2)}".strip(),
            p_value(row["p_holm"]) or "not tested",
            f"{costs[row['estimator']]['estimates_s']:.1f}",
            f"{costs[row['estimator']]['trainings_s']:.1f}",
        ]
        for row in grades.to_dict("records")
    ]
    columns = ["estimator", "targets", *(f"regret@{k}" for k in KS), "Spearman [95%]", "corrected p"]
    table = markdown([*columns, "estimates, s", "trainings, s"], rows)
    return f"{_graded_by(document, scores)}\n\n{table}\n\n{_verdict(grades, document['seeds'])}"


def estimates_in(document: Mapping[str, Any]) -> pd.DataFrame:
    """The estimates of intermediate tasks in a document, as `grades` takes them."""
    return pd.DataFrame(
        [
            (ranking["estimator"], ranking["size"], target, intermediate, value)
            for ranking in document["rankings"]
            for target, of_target in ranking["targets"].items()
            for intermediate, value in of_target["values"].items()
            if intermediate != NONE
        ],
        columns=ESTIMATE,
    )


def _graded_by(document: Mapping[str, Any], scores: pd.DataFrame) -> str:
    choices = scores["intermediate"].nunique()
    return (
        f"Size {document['size']}, {counted(choices, 'intermediate choice')}, {counted(document['seeds'], 'seed')}; on "
        f"{document['hardware']['summary']}: `{document['command']}`."
    )


def _verdict(grades: pd.DataFrame, seeds: int) -> str:
    better = [f"`{name}`" for name in grades.loc[grades["better"], "estimator"]]
    told = (
        f"Told from an order that knows nothing: {', '.join(better)}."
        if better
        else ("No estimator is told from an order that knows nothing.")
    )
    luck = (
        " With one seed the best score is partly the luckiest: every regret, a random order's as well, has that in it."
    )
    return told + (luck if seeds == 1 else "")


if __name__ == "__main__":
    typer.run(main)
