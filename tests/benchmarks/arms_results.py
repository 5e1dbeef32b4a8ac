"""The tables of arms in docs/arms.md, from the committed run of the recipe `micro_arms`.

    python -m tests.benchmarks.arms_results [--write]

Reads `docs/measured/micro_arms/run.json` (written by `python -m study report DIR --save`) and prints each table as Markdown.
`--write` puts them into the page, between `<!-- NAME -->` and `<!-- /NAME -->`. A test compares the page with what this prints.
The last line is one JSON document.
"""

from __future__ import annotations

import json
from typing import Annotated

import pandas as pd
import typer

import analysis
from analysis.report.findings import Findings
from analysis.report.sections.zero_shot import remark
from analysis.tables.averages import split_averages
from analysis.tables.formatting import interval, p_value, signed
from tests.benchmarks.laptop_results import DOCS, filled, gains, markdown, named

RUN, PAGE = DOCS / "measured" / "micro_arms" / "run.json", DOCS / "arms.md"


def main(write: Annotated[bool, typer.Option("--write", help="put the tables into docs/arms.md")] = False) -> None:
    """Print every table, and one JSON line."""
    findings = Findings(analysis.read_saved(RUN))
    tables = blocks(findings)
    for name, text in tables.items():
        print(f"## {name}\n\n{text}\n")
    if write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(json.dumps({"break_even": json.loads(analysis.break_even(findings.frames).to_json(orient="records"))}))


def blocks(findings: Findings) -> dict[str, str]:
    """The page's tables by name."""
    return {"arms-averages": _averages(findings), "arms-gains": gains(findings), "arms-languages": _languages(findings)}


def _averages(findings: Findings) -> str:
    """Mean gains, the largest first, beside the training seconds that each arm takes beyond none's."""
    costs = analysis.break_even(findings.frames).set_index(["size", "intermediate"])["extra_s"]
    rows = [
        [
            *(named(findings, row["intermediate"]), signed(row["gain"]), interval(row["low"], row["high"])),
            *(p_value(row["p_holm"]), row["rank"], row["seeds"]),
            f"{costs[row['size'], row['intermediate']]:.1f}",
            remark(row["not_zero_shot"]),
        ]
        for row in findings.averages.sort_values("gain", ascending=False, kind="stable").to_dict("records")
    ]
    columns = ["arm", "mean gain", "95% interval", "corrected p", "rank", "seeds", "training beyond none, s", ""]
    return markdown(columns, rows)


def _languages(findings: Findings) -> str:
    """Mean gains of translated data over the languages that it was trained in, and over those that it was not."""
    rows = [
        [
            f"`{row['intermediate']}`",
            row["trained_languages"],
            signed(row["gain_trained"]),
            f"{signed(row['gain_untrained'])} ± {row['sd_untrained']:.1f}" if pd.notna(row["sd_untrained"]) else "",
            *(row["targets"], row["seeds"]),
        ]
        for row in split_averages(findings.frames).to_dict("records")
    ]
    columns = ["arm", "trained in", "gain there", "gain in the others ± sd over seeds", "targets", "seeds"]
    return markdown(columns, rows)


if __name__ == "__main__":
    typer.run(main)
