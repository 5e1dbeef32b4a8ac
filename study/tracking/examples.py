"""One compact file of a trial's scores example by example, joined from its evaluations: what a bootstrap needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from trainables.stages.evaluate import Evaluate
from trainables.store.fingerprint import fingerprint
from trainables.store.stage_store import StageStore

EXAMPLES = "examples.parquet"


def write_examples(chain: Sequence[Evaluate], output: Path) -> Path | None:
    """Join the test examples of a finished chain; None while an evaluation is missing.

    Columns: task, split, language, example (its number in the language's test set) and the sums that the tasks' metrics add up,
    empty for a task whose metric has no such sum. Trials with the same choice share the file.
    """
    store = StageStore(output)
    found = [store.find(evaluate) for evaluate in chain]
    if not found or any(stage is None for stage in found):
        return None
    name = f"{chain[0].model.label}@{fingerprint(tuple(chain))}"
    path = output / "examples" / name / EXAMPLES
    if path.exists():
        return path
    frames = []
    for evaluate, stage in zip(chain, found, strict=True):
        assert stage is not None
        frame = pd.read_parquet(stage.folder / EXAMPLES)
        frame.insert(0, "task", evaluate.task.name)
        frames.append(frame[frame["split"] == "test"])
    joined = pd.concat(frames, ignore_index=True).astype(
        {"task": "category", "split": "category", "language": "category", "example": "int32"}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        joined.to_parquet(file, index=False, compression="zstd")
    os.replace(file.name, path)
    return path
