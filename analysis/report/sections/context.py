"""Sample sizes, hardware, versions and the command."""

from __future__ import annotations

from typing import Any

from analysis.report.findings import Findings
from analysis.report.page import escape, section
from analysis.store.frames import AGGREGATES

TITLE = "Run context"


def context_section(findings: Findings) -> str:
    """What a number means nothing without."""
    frames = findings.frames
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
        "Sample sizes": _samples(findings),
        "Test examples": _examples(findings),
        "Statistics": (
            "Intervals are 95 %: Student's t over paired seeds (randomised blocks), joined with a paired "
            f"bootstrap of {frames.examples.resamples} resamples over test examples; p-values adjusted by Holm (1979)"
        ),
        "Versions": ", ".join(f"{name} {version}" for name, version in context["versions"].items()),
        "Retrieval": "; ".join(f"{task}: {protocol}" for task, protocol in context["protocols"].items()),
        "Data": ", ".join(f"{task} {revision}" for task, revision in context["data"].items()),
    }
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{_definition(name, value)}</dd>" for name, value in listed.items())
    return section(TITLE, f"<dl>{pairs}</dl>")


def _samples(findings: Findings) -> str:
    frames = findings.frames
    seeds = frames.trials["seed"].dropna().nunique()
    languages = set(frames.scores["language"]) - set(AGGREGATES)
    return (
        f"{len(frames.size_names)} sizes, {len(frames.searched)} trials, {len(frames.trials) - len(frames.searched)} repeats, "
        f"{seeds} seeds, {len(frames.targets)} targets, {len(languages)} languages, {len(frames.benchmarks)} benchmarks"
    )


def _examples(findings: Findings) -> str:
    said = []
    for row in findings.best.to_dict("records"):
        for task, by_language in findings.frames.examples.sums((row["size"], row["trial_id"])).items():
            counts = sorted({len(sums[0]) for sums in by_language.values()})
            span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            said.append(f"{task} {span} in each of {len(by_language)} languages")
    return "; ".join(dict.fromkeys(said))


def _definition(name: str, value: Any) -> str:
    if not value:
        return escape("not recorded")
    return f"<code>{escape(value)}</code>" if name == "Command" else escape(value)
