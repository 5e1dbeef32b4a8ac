"""Sample sizes, hardware, versions and the command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.report.findings import Findings
from analysis.report.leads import context_lead
from analysis.report.page import escape, section
from analysis.store.frames import AGGREGATES
from analysis.tables.formatting import counted

TITLE = "How it was measured"


def context_section(findings: Findings) -> str:
    """The settings and sample sizes behind every number."""
    frames = findings.frames
    context = frames.context
    entries = {
        "Experiment": context["experiment"],
        "Command": context["command"],
        "Hardware": context["hardware"],
        "Training precision": context["precision"],
        "Seed": context["seed"],
        **({"Joined runs": "; ".join(map(_run, context["joined"]))} if "joined" in context else {}),
        "Selection": context["selection"],
        "Target tasks": ", ".join(map(str, context["targets"])),
        "Intermediate tasks": ", ".join(map(str, context["intermediates"])),
        **({"Encoders": "; ".join(_encoders(findings))} if frames.encoders else {}),
        "Sample sizes": _samples(findings),
        "Test examples": _examples(findings),
        "Statistics": (
            "95% intervals from Student's t over paired seeds (randomised blocks), combined with a paired bootstrap of "
            f"{frames.examples.resamples} resamples over test examples; p-values over seeds, corrected by Holm (1979)"
        ),
        "Versions": ", ".join(f"{name} {version}" for name, version in context["versions"].items()),
        "Retrieval": "; ".join(f"{task}: {protocol}" for task, protocol in context["protocols"].items()),
        "Data": ", ".join(f"{task} {revision}" for task, revision in context["data"].items()),
    }
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{_definition(name, value)}</dd>" for name, value in entries.items())
    return section(TITLE, f"<dl>{pairs}</dl>", lead=context_lead(findings))


def _run(run: Mapping[str, str | None]) -> str:
    """One of the runs whose tables were joined."""
    precision = f", trained in {run['precision']}" if run.get("precision") else ""
    return f"seed {run['seed']} on {run['hardware']}{precision}"


def _encoders(findings: Findings) -> list[str]:
    """The published encoders by size, with the targets whose data they have seen."""
    frames, entries = findings.frames, []
    for size, encoder in frames.encoders.items():
        seen = ", ".join(f"{target} ({what})" for target in frames.targets if (what := frames.seen(size, target)))
        entries.append(f"{size}: {encoder}" + (f", which has seen data of {seen}" if seen else ""))
    return entries


def _samples(findings: Findings) -> str:
    frames = findings.frames
    counts = {
        "size": len(frames.size_names),
        "trial": len(frames.searched),
        "repeat": len(frames.trials) - len(frames.searched),
        "seed": frames.trials["seed"].dropna().nunique(),
        "target": len(frames.targets),
        "language": len(set(frames.scores["language"]) - set(AGGREGATES)),
        "benchmark": len(frames.benchmarks),
    }
    return ", ".join(counted(count, noun) for noun, count in counts.items())


def _examples(findings: Findings) -> str:
    entries = []
    for row in findings.best.to_dict("records"):
        for task, by_language in findings.frames.examples.sums((row["size"], row["trial_id"])).items():
            counts = sorted({len(sums[0]) for sums in by_language.values()})
            span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            entries.append(f"{task} {span} in each of {counted(len(by_language), 'language')}")
    return "; ".join(dict.fromkeys(entries))


def _definition(name: str, value: Any) -> str:
    if not value:
        return escape("not recorded")
    return f"<code>{escape(value)}</code>" if name == "Command" else escape(value)
