"""The study's report: one HTML file that answers the question, shows the evidence and says what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.answer import answer
from analysis.charts import METRIC_DIGITS, METRIC_NAMES, gains_heatmap, language_chart, tradeoff_chart
from analysis.frames import AGGREGATES, BENCH_METRICS, StudyFrames
from analysis.gains import gains
from analysis.page import Absent, Charts, Number, document, escape, items, paragraph, section, table
from analysis.tradeoff import best_trials, configurations

NOT_RECORDED = Absent("not recorded")
NO_REASON = "no reason recorded"
NO_INTERFERENCE = ("", "none seen")


def write_report(frames: StudyFrames, path: Path | str) -> Path:
    """Write the report as one self-contained HTML file, readable offline; returns its path.

    Any state of a study gives a report, an empty one too; what is absent is named in it. Parent folders are created.
    """
    charts = Charts()
    gained = gains(frames)
    served = configurations(frames)
    title = f"{frames.context['experiment']}: zero-shot accuracy against inference speed"
    answered = "".join(paragraph(sentence) for sentence in answer(frames, gained))
    body = "".join(
        [
            f'<header><h1>{escape(title)}</h1><div class="answer">{answered}</div></header>',
            _tradeoff(served, charts),
            _gains(frames, gained, charts=charts),
            _languages(frames, charts),
            _search(frames),
            _benchmarks(served),
            _missing(frames, gained),
            _context(frames),
        ]
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(title, body=body, scripts=charts.scripts()), encoding="utf-8")
    return path


def _tradeoff(served: pd.DataFrame, charts: Charts) -> str:
    title = "Accuracy against latency"
    points = served[served["p50_ms"].gt(0) & served["test_score"].notna()]
    if points.empty:
        return section(title, paragraph("No benchmark has both a latency and a score: no trade-off to show."))
    parts = [
        paragraph(
            "A point is one size served in one variant; accuracy is that of the artefact that was timed. The dashed "
            "line is the Pareto front: the best accuracy measured within each latency budget.",
            kind="note",
        )
    ]
    for hardware, group in points.groupby("hardware", sort=False):
        label = "; ".join(
            f"{row['size']} {row['variant']}: {row['test_score']:.1f} % at {row['p50_ms']:.1f} ms"
            for row in group.to_dict("records")
        )
        parts.append(charts.place(tradeoff_chart(group), caption=str(hardware) or "hardware not recorded", label=label))
    if left_out := len(served) - len(points):
        parts.append(
            paragraph(f"{left_out} of {len(served)} benchmarks not drawn: latency or score missing.", kind="note")
        )
    return section(title, *parts)


def _gains(frames: StudyFrames, gained: pd.DataFrame, *, charts: Charts) -> str:
    title = "What intermediate training gained"
    if gained.empty:
        return section(
            title, paragraph("No intermediate task or no target is recorded, so there is nothing to compare.")
        )
    explained = (
        "Points gained in mean test score over no intermediate task, at the same size, learning rates and seed. "
        "Blue gained, orange lost, grey has no pair to compare."
    )
    if marked := sorted(set(gained["mark"]) - {""}):
        said = {
            "same data": "* trained on data the target is trained on",
            "leak": "! read data the target is scored on",
        }
        explained += f" Not transfer: {'; '.join(said[name] for name in marked)}."
    bound = max(1.0, float(gained["gain"].abs().max())) if gained["gain"].notna().any() else 1.0
    figures = []
    for size in frames.size_names:
        cells = gained[gained["size"] == size]
        label = "; ".join(
            f"{row['intermediate']} on {row['task']}: {_signed(row['gain']) or row['reason']}"
            for row in cells.to_dict("records")
        )
        figures.append(charts.place(gains_heatmap(cells, bound=bound), caption=f"size {size}", label=label))
    rows = [
        [
            row["size"],
            row["intermediate"],
            row["task"],
            Number(_signed(row["gain"])) if pd.notna(row["gain"]) else Absent(row["reason"]),
            _number(row["sd"], 2, absent="under two seeds"),
            _number(row["score"]),
            _number(row["score_none"]),
            _number(row["chance"]),
            Number(row["n"]),
            row["mark"],
        ]
        for row in gained.to_dict("records")
    ]
    columns = [
        "size",
        "intermediate",
        "target",
        "gain",
        "sd",
        "score (%)",
        "with none (%)",
        "chance (%)",
        "seeds",
        "mark",
    ]
    return section(
        title,
        paragraph(explained, kind="note"),
        f'<div class="grid">{"".join(figures)}</div>',
        f"<details><summary>The same as a table</summary>{table(columns, rows, caption='Gains in points')}</details>",
    )


def _languages(frames: StudyFrames, charts: Charts) -> str:
    title = "Languages"
    best = best_trials(frames)
    scores = frames.scores[frames.scores["split"] == "test"].merge(best, on=["size", "trial_id"])
    single = scores[~scores["language"].isin(AGGREGATES) & scores["value"].notna()]
    if single.empty:
        return section(title, paragraph("No finished trial has scores by language yet."))
    sizes = [size for size in frames.size_names if size in set(best["size"])]
    figures = []
    for task in frames.targets:
        if len(rows := single[single["task"] == task]):
            means = rows.groupby("language")["value"].mean()
            label = f"{task}: from {means.min():.1f} % in {means.idxmin()} to {means.max():.1f} % in {means.idxmax()}"
            figures.append(charts.place(language_chart(rows, sizes=sizes), caption=task, label=label))
    languages = sorted(single["language"].unique())
    columns = [*AGGREGATES, *languages]
    values = {(r["size"], r["task"], r["language"]): r["value"] for r in scores.to_dict("records")}
    trial = dict(zip(best["size"], best["trial_id"], strict=True))
    chance = scores.groupby("task")["chance"].max().to_dict()
    scored = {(size, task) for size, task, _ in values}
    rows_out = [
        [f"{task} · {size}", trial[size], _number(chance[task])]
        + [_number(values.get((size, task, column)), absent="–") for column in columns]
        for task in frames.targets
        for size in sizes
        if (size, task) in scored
    ]
    return section(
        title,
        paragraph(
            "Test score of the best trial of each size, chosen on dev. Dashed: guessing. Best language first.",
            kind="note",
        ),
        f'<div class="grid">{"".join(figures)}</div>',
        table(
            ["target · size", "trial", "chance", *columns], rows_out, caption="Test score in percent; – is not scored"
        ),
    )


def _search(frames: StudyFrames) -> str:
    if frames.trials.empty:
        return section("Search", paragraph("No trial is recorded."))
    chosen = set(best_trials(frames).itertuples(index=False, name=None))
    rows = [
        [
            row["trial_id"],
            row["size"],
            row["intermediate"] or NOT_RECORDED,
            _rate(row["lr_intermediate"], absent="none"),
            _rate(row["lr_target"]),
            _count(row["seed"]),
            row["outcome"].replace("_", " "),
            _number(row["dev_score"]),
            _number(row["test_score"]),
            _count(row["targets_finished"]),
            "yes" if row["default_cell"] else "no",
            "best of its size" if (row["size"], row["trial_id"]) in chosen else row["reason"],
        ]
        for row in frames.trials.to_dict("records")
    ]
    columns = [
        "trial",
        "size",
        "intermediate",
        "lr intermediate",
        "lr target",
        "seed",
        "outcome",
        "dev (%)",
        "test (%)",
    ]
    outcomes = frames.trials["outcome"].value_counts()
    caption = f"{len(rows)} trials: " + ", ".join(f"{n} {str(name).replace('_', ' ')}" for name, n in outcomes.items())
    selection = frames.context["selection"]
    return section(
        "Search",
        paragraph(
            (f"Trials were selected on {selection}. " if selection else "How trials were selected is not recorded. ")
            + "Dev and test are means over the targets a trial finished: compare only rows with as many.",
            kind="note",
        ),
        table([*columns, "targets", "default", "note"], rows, caption=caption),
        _sizes(frames.sizes),
    )


def _sizes(sizes: pd.DataFrame) -> str:
    rows = [
        [
            row["size"],
            _number(row["params_m"], 2),
            _number(row["params_body_m"], 2),
            *(_count(row[name]) for name in ("trials", "pruned", "failed")),
            _number(row["wall_s"], 0),
            row["best_trial"] or NOT_RECORDED,
        ]
        for row in sizes.to_dict("records")
    ]
    columns = ["size", "parameters (M)", "body (M)", "trials", "stopped early", "failed", "wall time (s)", "best trial"]
    return table(columns, rows, caption="Sizes searched") if rows else paragraph("No size is recorded.")


def _benchmarks(served: pd.DataFrame) -> str:
    if served.empty:
        return section("Benchmarks", paragraph("No benchmark is recorded."))
    tasks = list(dict.fromkeys(task for scores in served["task_scores"] for task in scores))
    metrics = ["test_score", *BENCH_METRICS, "params_m", "params_body_m"]
    rows = [
        [
            f"{row['size']} · {row['variant']}",
            row["intermediate"] or NOT_RECORDED,
            "yes" if row["on_front"] else "no",
            *(
                _number(row[name], METRIC_DIGITS[name], absent=row["unavailable"].get(name, NO_REASON))
                for name in metrics
            ),
            *(_number(row["task_scores"].get(task), absent="not scored") for task in tasks),
            row["trial_id"],
            row["hardware"] or NOT_RECORDED,
            row["interference"] or NOT_RECORDED,
        ]
        for row in served.to_dict("records")
    ]
    columns = ["size · variant", "intermediate", "on the front", *(METRIC_NAMES[name] for name in metrics)]
    columns += [*(f"{task} (%)" for task in tasks), "trial", "hardware", "interference"]
    return section(
        "Benchmarks", table(columns, rows, caption="What was served, how fast, and how accurate it then was")
    )


def _missing(frames: StudyFrames, gained: pd.DataFrame) -> str:
    parts = []
    for heading, lines in (
        ("Trials without a result", list(_lost_trials(frames))),
        ("What could not be measured", list(_unmeasured(frames.benchmarks))),
        ("Gains without a pair", list(_unpaired(gained))),
        ("Weak evidence", list(_weak(frames, gained))),
    ):
        if lines:
            parts.append(f"<h3>{escape(heading)}</h3>{items(lines)}")
    return section("What is missing", *(parts or [paragraph("Nothing that was attempted is missing.")]))


def _lost_trials(frames: StudyFrames) -> Iterator[str]:
    if frames.trials.empty:
        yield "No trial is recorded."
    for row in frames.trials[frames.trials["outcome"].isin(["failed", "unfinished"])].to_dict("records"):
        reason = f": {row['reason'] or NO_REASON}" if row["outcome"] == "failed" else ""
        yield f"{row['outcome']}: {row['size']}, trial {row['trial_id']} (intermediate {row['intermediate']}){reason}"


def _unmeasured(benchmarks: pd.DataFrame) -> Iterator[str]:
    if benchmarks.empty:
        yield "No benchmark is recorded: latency, throughput, memory and energy are unknown for every size."
    for row in benchmarks.to_dict("records"):
        absent = {name: NO_REASON for name in (*BENCH_METRICS, "test_score") if pd.isna(row[name])}
        for name, reason in (absent | row["unavailable"]).items():
            yield f"{row['size']} {row['variant']}, {METRIC_NAMES.get(name, name)}: {reason}"


def _unpaired(gained: pd.DataFrame) -> Iterator[str]:
    lost = gained[gained["n"] == 0]
    for key, group in lost.groupby(["size", "intermediate", "reason"], sort=False):
        size, intermediate, reason = (str(part) for part in key)
        yield f"{size}, {intermediate} on {', '.join(group['task'])}: {reason}"


def _weak(frames: StudyFrames, gained: pd.DataFrame) -> Iterator[str]:
    counted = gained[gained["n"] > 0]
    if single := int((counted["n"] == 1).sum()):
        yield f"{single} of {len(counted)} gains rest on one seed and have no spread."
    at_chance = counted[(counted[["score", "score_none"]].max(axis=1) <= counted["chance"])]
    if len(at_chance):
        yield f"{len(at_chance)} of {len(counted)} gains compare two scores that are both at or below guessing."
    for row in frames.benchmarks.to_dict("records"):
        if row["interference"] not in NO_INTERFERENCE:
            yield f"{row['size']} {row['variant']} was timed under interference: {row['interference']}"


def _context(frames: StudyFrames) -> str:
    context = frames.context
    listed = {
        "Experiment": context["experiment"],
        "Command": context["command"],
        "Hardware": context["hardware"],
        "Training precision": context["precision"],
        "Seed": context["seed"],
        "Selection": context["selection"],
        "Targets": ", ".join(map(str, context["targets"])),
        "Intermediate tasks": ", ".join(map(str, context["intermediates"])),
        "Versions": ", ".join(f"{name} {version}" for name, version in context["versions"].items()),
        "Retrieval": "; ".join(f"{task}: {protocol}" for task, protocol in context["protocols"].items()),
        "Data": ", ".join(f"{task} {revision}" for task, revision in context["data"].items()),
    }
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{_definition(name, value)}</dd>" for name, value in listed.items())
    return section("Run context", f"<dl>{pairs}</dl>")


def _definition(name: str, value: Any) -> str:
    if not value:
        return escape(NOT_RECORDED)
    return f"<code>{escape(value)}</code>" if name == "Command" else escape(value)


def _number(value: Any, digits: int = 1, *, absent: str = NOT_RECORDED) -> str:
    return Absent(absent) if pd.isna(value) else Number(f"{value:,.{digits}f}")


def _count(value: Any) -> str:
    return NOT_RECORDED if pd.isna(value) else Number(int(value))


def _rate(value: Any, *, absent: str = NOT_RECORDED) -> str:
    return Absent(absent) if pd.isna(value) else Number(f"{value:g}")


def _signed(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:+.1f}"
