"""The tables of docs/results.md and the first one of README.md, from the committed runs of the recipe `laptop`.

    python -m tests.benchmarks.laptop_results [--write]

Reads every `docs/measured/laptop/SIZE-seedN.json` (written by `python -m study report DIR --save`, with its scores by example),
`SIZE-seedN-rest.json` (of a run of the choices that the first has not) and `SIZE-seedN.run.json` (the last line of a run that
has ended), joins them into one study and prints each table as Markdown. `--write` puts them into the pages, between
`<!-- NAME -->` and `<!-- /NAME -->`, and draws the charts beside the runs. A test compares the pages with what this prints. The
last line is one JSON document.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import analysis
from analysis import StudyFrames
from analysis.report.findings import Findings
from analysis.report.sections.zero_shot import SIGN
from analysis.report.write import exports_folder, write_report
from analysis.store.frames import FLIPS, MEAN, NONE
from analysis.tables.formatting import interval, p_value, signed
from tests.benchmarks.laptop_claims import claims

DOCS = Path(__file__).parents[2] / "docs"
MEASURED, PAGE, README = DOCS / "measured" / "laptop", DOCS / "results.md", DOCS.parent / "README.md"
FIRST = ("fp32", "cut_onnx_int8")  # the serving variants in README.md
CHARTS = ("tradeoff_p50_ms", "gains-*", "average_gains*")  # by the report's names
SIGNS = {"gain": " ▲", "loss": " ▼", "tie": " =", "unclear": "", "one seed": "", "": ""}
FLAGS = {"same data": "*", "leak": "!", "seen": "†", "": ""}

Write = Annotated[bool, typer.Option("--write", help="put the tables into docs/results.md and README.md")]


def main(write: Write = False) -> None:
    """Print every table, and one JSON line."""
    findings = Findings(committed())
    for page, tables in pages(findings).items():
        for name, text in tables.items():
            print(f"## {page.name}: {name}\n\n{text}\n")
    if write:
        for page, own in pages(findings).items():
            page.write_text(filled(page.read_text(encoding="utf-8"), own), encoding="utf-8")
        draw(findings.frames, MEASURED)
    averages = json.loads(findings.averages.to_json(orient="records"))
    front = json.loads(analysis.front(findings.frames).to_json(orient="records"))
    print(json.dumps({"average_gains": averages, "front": front}))


def committed() -> StudyFrames:
    """The committed runs as one study."""
    return analysis.joined([analysis.read_saved(path) for path in _saved()])


def pages(findings: Findings) -> dict[Path, dict[str, str]]:
    """The tables of each page by name."""
    return {
        PAGE: {"runs": runs()} | {name: make(findings) for name, make in _TABLES.items()},
        README: {"laptop": answer(findings)},
    }


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with these tables at their places.

    Raises:
        ValueError: the page has no place for one of them.
    """
    for name, text in tables.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not place.search(page):
            raise ValueError(f"the page has no place for {name!r}")
        page = place.sub(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)  # type: ignore[misc]
    return page


def draw(frames: StudyFrames, folder: Path) -> list[Path]:
    """The report's charts that the page shows, as SVG; one of gains for each size. Charts without data are not drawn."""
    with tempfile.TemporaryDirectory() as scratch:
        report = write_report(frames, Path(scratch) / "report.html")
        drawn = [path for name in CHARTS for path in sorted(exports_folder(report).glob(f"charts/{name}.svg"))]
        return [Path(shutil.copy(path, folder)) for path in drawn]


def _saved() -> list[Path]:
    """Saved tables by size, then seed; their names are such as `3l-seed0.json`."""
    paths = [path for path in MEASURED.glob("*.json") if not path.name.endswith(".run.json")]
    return sorted(paths, key=lambda path: ([int(number) for number in re.findall(r"\d+", path.stem)], path.stem))


def runs() -> str:
    """What was run, on what, and what it took: minutes, and GB at the peak. A run without its last line has not ended."""
    rows = []
    for path in _saved():
        frames, last = analysis.read_saved(path), path.with_name(f"{path.stem}.run.json")
        took = ["n/a"] * 5
        if last.is_file():
            took = _took(json.loads(last.read_text(encoding="utf-8")), served=not frames.benchmarks.empty)
        done = int((frames.trials["outcome"] == "complete").sum())
        trained = f"{frames.context['hardware']}: {frames.context['precision']}"
        sizes = ", ".join(frames.size_names)
        rows.append([sizes, frames.context["seed"], trained, done, len(frames.benchmarks), *took])
    phases = ("search", "benchmark", "report", "this run", "all runs")
    return markdown(["size", "seed", "trained on, in", "trials", "variants served", *phases], rows)


def _took(run: dict[str, Any], *, served: bool) -> list[str]:
    """Of a run's phases, of the whole, and of all runs of its command: minutes, with the peak memory where it was recorded.

    A resumed run knows nothing of what an earlier one finished but the time that it took.
    """
    peaks = {**run.get("peak_memory_by_phase_mb", {}), "whole": run["peak_memory_mb"]}
    seconds = {**run["seconds"], "whole": run["wall_s"]}
    all_runs = f"{run['all_runs_s'] / 60:.1f} min" if "all_runs_s" in run else "n/a"
    own = {
        phase: f"{seconds[phase] / 60:.1f} min" + (f", {peaks[phase] / 1e3:.1f} GB" if phase in peaks else "")
        if seconds.get(phase, 0.0) >= 3.0
        else "in an earlier run"
        for phase in ("search", "benchmark", "report", "whole")
    }
    if not served:
        own["benchmark"] = "none"
    return [*own.values(), all_runs]


def scores(findings: Findings) -> str:
    """Mean score of each size on each target without an intermediate task, over seeds, with chance."""
    frames = findings.frames
    own = frames.judged().merge(frames.trials[["size", "trial_id", "seed"]], on=["size", "trial_id"])
    none = own[own["intermediate"] == NONE]
    chances = frames.scores.groupby("task")["chance"].max()
    rows = []
    for task in frames.targets:
        cells = []
        for size in frames.size_names:
            values = none[(none["task"] == task) & (none["size"] == size)]["value"]
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}" if len(values) else "")
        seen = "yes" if any(frames.seen(size, task) for size in frames.size_names) else ""
        over = "all languages" if frames.judged_by.get(task) == MEAN else "without English"
        rows.append([f"`{task}`", over, *cells, f"{chances[task]:.1f}", seen])
    return markdown(
        ["target", "mean over", *(f"{size}" for size in frames.size_names), "chance", "data seen by the encoder"], rows
    )


def answer(findings: Findings) -> str:
    """Score and latency of each size in the variants of README, with the intermediate task that was chosen and without one."""
    rows = []
    for size in findings.frames.size_names:
        for variant in FIRST:
            served = findings.served[(findings.served["size"] == size) & (findings.served["variant"] == variant)]
            if served.empty:
                continue
            scores = dict(zip(served["intermediate"], served["score"].astype("float64"), strict=True))
            (chosen,) = [name for name in scores if name != NONE] or [NONE]
            scored = (f"{scores[name]:.1f}" for name in (chosen, NONE))
            latency = f"{served['p50_ms'].iloc[0]:.1f} ms"
            rows.append([size.removesuffix("l"), f"`{variant}`", latency, *scored, f"`{chosen}`"])
    return markdown(
        ["layers", "variant", "p50", "score", "without an intermediate task", "chosen on English dev"], rows
    )


def tradeoff(findings: Findings) -> str:
    """Every configuration that was served: speed, memory and score."""
    rows = []
    for row in findings.served.to_dict("records"):
        rows.append(
            [
                *(row["size"], f"`{row['variant']}`", row["intermediate"]),
                *(f"{row[name]:.1f}" if pd.notna(row[name]) else "n/a" for name in ("p50_ms", "p90_ms")),
                *(
                    f"{row[name]:.0f}" if pd.notna(row[name]) else "n/a"
                    for name in ("throughput_sps", "peak_memory_mb")
                ),
                f"{row['score']:.1f}",
                "●" if row["on_front"] else "",
            ]
        )
    columns = [
        "size",
        "variant",
        "intermediate",
        "p50, ms",
        "p90, ms",
        "samples/s",
        "memory, MB",
        "score",
        "on the front",
    ]
    return markdown(columns, rows)


def batches(findings: Findings) -> str:
    """How often a variant predicts otherwise in a batch than for a single query."""
    known = findings.served.dropna(subset=list(FLIPS)).drop_duplicates(["size", "variant"])
    rows = [
        [row["size"], f"`{row['variant']}`", *(f"{row[name]:.1f}" for name in FLIPS)]
        for row in known.to_dict("records")
    ]
    return markdown(
        [
            "size",
            "variant",
            "batches of like length, as scored, %",
            "batches of 32, %",
            "alone, padded as in a batch of 32, %",
        ],
        rows,
    )


def gains(findings: Findings) -> str:
    """Gains of every cell over none, by size."""
    parts = []
    for size in findings.frames.size_names:
        cells = findings.gained[findings.gained["size"] == size]
        rows = []
        for name in dict.fromkeys(cells["intermediate"]):
            of_name = {row["task"]: row for row in cells[cells["intermediate"] == name].to_dict("records")}
            most = max(row["n"] for row in of_name.values())
            counts = {task: f" ({row['n']})" if 0 < row["n"] < most else "" for task, row in of_name.items()}
            shown = (_gain(of_name[task]) + counts[task] for task in findings.frames.targets)
            rows.append([named(findings, name), *shown])
        seeds = cells.groupby("intermediate")["n"].max()
        several = f"{seeds.min()} to {seeds.max()}" if seeds.min() < seeds.max() else f"{seeds.max()}"
        parts.append(f"Size {size} ({several} {'seed' if several == '1' else 'seeds'}):\n")
        titles = [f"`{task}`{' †' if findings.frames.seen(size, task) else ''}" for task in findings.frames.targets]
        parts.append(markdown(["first trained on", *titles], rows) + "\n")
    return "\n".join(parts).rstrip()


def named(findings: Findings, intermediate: str) -> str:
    """An intermediate task, with a sign where it has labelled data in a language besides English, or in unknown ones."""
    frames = findings.frames
    marked = frames.trained_languages(intermediate) or frames.languages_unknown(intermediate)
    return f"`{intermediate}`{f' {SIGN}' if marked else ''}"


def averages(findings: Findings) -> str:
    """Mean gains over targets without a contamination flag."""
    rows = [
        [
            *(row["size"], named(findings, row["intermediate"]), signed(row["gain"])),
            interval(row["low"], row["high"]) or "n/a",
            *(p_value(row["p_holm"]) or "not tested", row["seeds"], row["targets"], row["collapsed"]),
        ]
        for row in findings.averages.to_dict("records")
    ]
    columns = ["size", "first trained on", "mean gain", "95% interval", "corrected p", "seeds", "targets", "collapsed"]
    return markdown(columns, rows)


def collapsed(findings: Findings) -> str:
    """Runs at chance after training."""
    table = findings.collapsed
    if table.empty:
        return "No run collapsed."
    groups = table.groupby(["size", "task"], sort=False)
    rows = [
        [size, f"`{task}`", len(group), ", ".join(f"`{name}`" for name in dict.fromkeys(group["intermediate"]))]
        for (size, task), group in groups
    ]
    return markdown(["size", "target", "runs", "after"], rows)


def languages(findings: Findings) -> str:
    """Languages of the largest size with a benchmark: effect on scores, tokens and latency."""
    table = findings.languages
    timed = table[table["p50_ms"].notna()]
    size = timed["size"].iloc[-1] if len(timed) else table["size"].iloc[-1]
    rows = [
        [
            *(row["name"], row["script"], signed(row["effect"]), row["tasks"]),
            *(
                f"{row[name]:.2f}" if pd.notna(row[name]) else "n/a"
                for name in ("pieces_to_english", "latency_to_english")
            ),
        ]
        for row in table[table["size"] == size].sort_values("effect", ascending=False).to_dict("records")
    ]
    columns = ["language", "script", f"effect on scores ({size})", "targets", "tokens, English = 1", "p50, English = 1"]
    return markdown(columns, rows)


def graded(findings: Findings) -> str:
    """Claims of earlier work, graded."""
    return markdown(
        ["claim", "here", "evidence"], [[c.claim, f"**{c.verdict}**", c.evidence] for c in claims(findings)]
    )


_TABLES: dict[str, Callable[[Findings], str]] = {
    "tradeoff": tradeoff,
    "batches": batches,
    "scores": scores,
    "averages": averages,
    "gains": gains,
    "collapsed": collapsed,
    "claims": graded,
    "languages": languages,
}


def _gain(row: dict[Any, Any]) -> str:
    if pd.isna(row["gain"]):
        return str(row["reason"])
    return f"{signed(row['gain'])}{FLAGS[row['mark']]}{SIGNS[row['verdict']]}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


if __name__ == "__main__":
    typer.run(main)
