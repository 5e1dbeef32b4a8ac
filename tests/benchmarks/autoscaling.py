"""Does a study scale a cluster up from zero, survive the loss of a node, and leave nothing running?

    python -m tests.benchmarks.autoscaling [--quick] [--to DIR]

A real head with Ray's autoscaler (v2) and its fake provider, which starts raylets on this machine instead of cloud machines.
Two groups of zero to two nodes declare a GPU each that does not exist (the CPU computes), and one group of zero or one node is
for the benchmark. The head takes no tasks. `study submit` sends a study of two sizes, two ZeRO workers each, one group a size.
Once a target training of the first size has a checkpoint of 50 steps, one of its nodes is killed without warning.

The run fails unless the job succeeds, no finished stage is trained again, the interrupted training resumes from a checkpoint,
every group was up, and every group is at zero at the end. Measured in seconds: from submission to the first node of each
group, from the loss to the replacement, from the end of the job to the end of the last node.

--quick runs the first size only. --to saves the node counts as JSON and as a chart. The last line is one JSON document.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import altair as alt
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from tests.support.commands import ROOT
from tests.support.scaled_cluster import ScaledCluster, end_on_termination, scaled_cluster
from trainables.benchmark.probes.hardware import hardware
from trainables.store.versions import versions

IDLE_S = 20.0
STEPS_BEFORE = 50  # of 300: the checkpoint that must exist before the node is killed
TIMEOUT_S = 900.0
GROUPS: dict[str, dict[str, Any]] = {
    "train-a100": {"resources": {"CPU": 1, "GPU": 1, "accelerator_type:A100": 1}, "max_workers": 2},
    "train-t4": {"resources": {"CPU": 1, "GPU": 1, "accelerator_type:T4": 1}, "max_workers": 2},
    "benchmark": {"resources": {"CPU": 1, "benchmark": 1}, "max_workers": 1},
}
FIRST, SIZE = "train-a100", "1x32"

console = Console(highlight=False, width=128)

Quick = Annotated[bool, typer.Option("--quick", help="the first size only")]
To = Annotated[Path | None, typer.Option(help="folder for autoscaling.json and autoscaling.svg")]


def main(quick: Quick = False, to: To = None) -> None:
    """Print a table and one JSON line."""
    end_on_termination()
    with tempfile.TemporaryDirectory() as name, scaled_cluster(Path(name), GROUPS, idle_s=IDLE_S) as cluster:
        document = _scenario(cluster, Path(name) / "out", only=SIZE if quick else None)
    document |= {
        "idle_timeout_s": IDLE_S,
        "load_average": os.getloadavg(),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.autoscaling", *sys.argv[1:]]),
    }
    table = Table("", "s")
    for what, seconds in document["seconds"].items():
        table.add_row(what, f"{seconds:.1f}")
    console.print(table)
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        (to / "autoscaling.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        chart(document).save(to / "autoscaling.svg")
    print(json.dumps({key: value for key, value in document.items() if key != "counts"}))


def _scenario(cluster: ScaledCluster, output: Path, *, only: str | None) -> dict[str, Any]:
    began = time.monotonic() - cluster.counts()[-1][0]
    events: dict[str, float] = {}

    def mark(event: str) -> None:
        events[event] = round(time.monotonic() - began, 1)
        console.print(f"{events[event]:6.1f} s  {event}")

    sizes = ["--sizes", only] if only else []
    job = _study(cluster, "tests/support/recipes.py:on_two_kinds", "--output", str(output), *sizes, "--no-wait")["job"]
    mark("submitted")
    checkpoints = _wait(lambda: _checkpoints(output), cluster, job)
    before = _finished(output)
    cluster.preempt(FIRST)
    mark("node lost")
    while (status := _study(cluster, "--status", job)["status"]) in ("PENDING", "RUNNING"):
        time.sleep(1)
    mark("job ended")
    if status != "SUCCEEDED":
        raise SystemExit(f"the job is {status}: {_log(cluster, job)}")
    if {path: when for path, when in _finished(output).items() if path in before} != before:
        raise SystemExit("a finished stage was trained again")
    cluster.wait_for(dict.fromkeys(GROUPS, 0), timeout_s=120)
    mark("no node left")
    counts = cluster.counts()
    groups = [group for group in GROUPS if only is None or group != "train-t4"]
    first = {group: _first(counts, group) for group in groups}
    resumed = _resumed(output)
    if not resumed:
        raise SystemExit("no training resumed from a checkpoint")
    return {
        "job": status,
        "most_nodes": {group: max(nodes.get(group, 0) for _, nodes in counts) for group in groups},
        "stages": len(_finished(output)),
        "finished_before_the_loss": len(before),
        "checkpoint_before_the_loss": checkpoints,
        "went_on_from_step": resumed,
        "seconds": {
            **{f"from submission to the first node of {group}": first[group] - events["submitted"] for group in groups},
            "from the loss to two nodes again": _again(counts, events["node lost"]) - events["node lost"],
            "from submission to the job's end": events["job ended"] - events["submitted"],
            "from the job's end to no node": events["no node left"] - events["job ended"],
        },
        "events": events,
        "counts": _changes(counts),
    }


def _study(cluster: ScaledCluster, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "study", "submit", *arguments, "--address", cluster.server],
        cwd=ROOT,
        env=dict(cluster.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        raise SystemExit(done.stderr)
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def _log(cluster: ScaledCluster, job: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", "logs", job, "--address", cluster.server],
        env=dict(cluster.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def _checkpoints(output: Path) -> list[str]:
    """Complete checkpoints of target trainings from step `STEPS_BEFORE` on."""
    folders = [path.parent for path in output.glob("checkpoints/target-*/step-*/manifest.json")]
    return sorted(
        f"{step.parent.name}/{step.name}" for step in folders if int(step.name.removeprefix("step-")) >= STEPS_BEFORE
    )


def _resumed(output: Path) -> dict[str, int]:
    """The step each stage resumed from, of the stages that did."""
    metrics = {
        path.parent.name: json.loads(path.read_text())["metrics"] for path in output.glob("stages/*/manifest.json")
    }
    return {name: step for name, found in metrics.items() if (step := found.get("resumed_at"))}


def _finished(output: Path) -> dict[str, int]:
    """When each finished stage was committed."""
    return {path.parent.name: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}


def _wait(condition: Callable[[], list[str]], cluster: ScaledCluster, job: str) -> list[str]:
    """Poll until the condition returns something, while the job runs."""
    deadline, asked = time.monotonic() + TIMEOUT_S, time.monotonic()
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"no checkpoint within {TIMEOUT_S:.0f} s: {_log(cluster, job)}")
        if time.monotonic() - asked > 20:
            asked = time.monotonic()
            if (status := _study(cluster, "--status", job)["status"]) not in ("PENDING", "RUNNING"):
                raise SystemExit(f"the job is {status} before a node could be killed: {_log(cluster, job)}")
        time.sleep(0.1)
    return result


def _first(counts: Sequence[tuple[float, dict[str, int]]], group: str) -> float:
    return next(seconds for seconds, nodes in counts if nodes.get(group))


def _again(counts: Sequence[tuple[float, dict[str, int]]], since: float) -> float:
    """When the first group had both nodes again after the loss."""
    less = next(seconds for seconds, nodes in counts if seconds >= since and nodes.get(FIRST, 0) < 2)
    return next(seconds for seconds, nodes in counts if seconds > less and nodes.get(FIRST, 0) == 2)


def _changes(counts: Sequence[tuple[float, dict[str, int]]]) -> list[dict[str, Any]]:
    """The samples at which the count of a group changed, and the last sample."""
    changes: list[dict[str, Any]] = []
    for seconds, nodes in counts:
        of_groups = {group: nodes.get(group, 0) for group in GROUPS}
        if not changes or of_groups != changes[-1]["nodes"]:
            changes.append({"seconds": seconds, "nodes": of_groups})
    return [*changes, {"seconds": counts[-1][0], "nodes": {group: counts[-1][1].get(group, 0) for group in GROUPS}}]


def chart(document: dict[str, Any]) -> alt.VConcatChart:
    """Nodes of each group over time, with the events."""
    rows = [
        {"seconds": sample["seconds"], "group": group, "nodes": nodes}
        for sample in document["counts"]
        for group, nodes in sample["nodes"].items()
    ]
    events = pd.DataFrame([{"event": event, "seconds": seconds} for event, seconds in document["events"].items()])
    charts = []
    for row, group in enumerate(GROUPS):
        last = row == len(GROUPS) - 1
        seconds = alt.X("seconds:Q", title="seconds since the head came up" if last else None)
        nodes = alt.Y(
            "nodes:Q", title=group, scale=alt.Scale(domain=[0, 2]), axis=alt.Axis(values=[0, 1, 2], format="d")
        )
        frame = pd.DataFrame([sample for sample in rows if sample["group"] == group])
        area = alt.Chart(frame).mark_area(interpolate="step-after", opacity=0.75).encode(x=seconds, y=nodes)
        rule = alt.Chart(events).mark_rule(strokeDash=[4, 3], color="#666").encode(x=seconds)
        marks = [area, rule]
        if row == 0:
            name = alt.Chart(events).mark_text(angle=270, align="right", dx=-4, dy=-6, color="#444")
            marks.append(name.encode(x=seconds, y=alt.value(0), text="event"))
        charts.append(alt.layer(*marks).properties(width=760, height=110))
    return alt.vconcat(*charts).properties(title="Nodes by group while a study runs, from zero to zero")


if __name__ == "__main__":
    typer.run(main)
