"""What a search writes of its trials, and the check that a store has it, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from study.tracking.tracker import Tracker
from tests.support.mlflow_stub import Stub

PARAMS = {"intermediate": "none", "lr_intermediate": None, "lr_target": 1e-3, "seed": 0}


def open_tracker(stub: Stub, output: Path, lines: list[str] | None = None, **options: Any) -> Tracker:
    return Tracker(stub.uri, "demo", output=output, say=(lines if lines is not None else []).append, **options)


def write_trials(tracker: Tracker, trials: int = 3) -> None:
    """What a search writes: trials with two results each, an outcome, a file, an end."""
    tracker.describe({"study.seed": 0})
    for number in range(trials):
        run = tracker.trial("s", f"t{number}", default_cell=False, params=PARAMS)
        for step in (1, 2):
            tracker.metrics(run, {"dev/score": 10.0 * number + step, f"dev/task{step}": 1.0}, step=step)
        path = tracker.output / f"t{number}" / "examples.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"examples of t{number}")
        tracker.artifact(run, path)
        tracker.tags(run, {"outcome": "complete"})
        tracker.finish(run)


def assert_received(stub: Stub, trials: int = 3) -> None:
    """The store has what `write_trials` wrote, once."""
    runs = stub.by_key()
    assert set(runs) == {"size:s", *(f"trial:s:t{number}" for number in range(trials))}
    assert stub.experiments["demo"]["tags"]["study.seed"] == "0"
    for number in range(trials):
        run = runs[f"trial:s:t{number}"]
        # An unchanged value is not written again at the next step.
        points = {("dev/score", 1, 10.0 * number + 1), ("dev/score", 2, 10.0 * number + 2)}
        points |= {("dev/task1", 1, 1.0), ("dev/task2", 2, 1.0)}
        assert {point[:3] for point in run["metrics"]} == points
        assert len(run["metrics"]) == len(points), "a point appears twice"
        assert run["params"]["lr_intermediate"] == "none"
        assert run["tags"]["outcome"] == "complete"
        assert run["status"] == "FINISHED"
        assert stub.files[f"{run['run_id']}/examples.parquet"] == f"examples of t{number}".encode()
