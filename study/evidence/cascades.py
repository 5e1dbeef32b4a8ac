"""Whether the smaller model of a served cascade answered what its thresholds say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.store.examples import CONFIDENCE
from analysis.tables.cascades.prediction import SMALL
from study.evidence.recount import close
from trainables.benchmark.measurement import CASCADE


def cascade_faults(document: Mapping[str, Any], examples: pd.DataFrame) -> Iterator[str]:
    """Examples that the other model should have answered, and shares that the examples do not give.

    Args:
        document: a measurement; that of a single model has no such faults.
        examples: the scores by example of its repeat that was scored.

    Raises:
        KeyError, TypeError, AttributeError: they are not of a cascade's form.
    """
    measured = document.get("measured")
    repeats = [repeat for repeat in measured if CASCADE in repeat] if isinstance(measured, list) else []
    cascade = next((repeat[CASCADE] for repeat in repeats if "share" in repeat[CASCADE]), None)
    if cascade is None:
        return
    tests = examples[examples["split"].astype(str) == "test"].astype({"task": str, "language": str})
    for task, threshold in cascade["thresholds"].items():
        of_task = tests[tests["task"] == task]
        wrong = of_task[(of_task[CONFIDENCE] >= threshold) != (of_task[SMALL] == 1)]
        for row in wrong.to_dict("records"):
            model = "smaller" if row[SMALL] == 1 else "larger"
            yield (
                f"{task}/{row['language']} example {row['example']}: answered by the {model} model at a confidence of "
                f"{row[CONFIDENCE]:.6g}, and the threshold is {threshold:.6g}"
            )
        given = {str(language): float(share) for language, share in of_task.groupby("language")[SMALL].mean().items()}
        recorded = cascade["share"].get(task, {})
        for language in sorted(given.keys() | recorded.keys()):
            share, kept = given.get(language), recorded.get(language)
            if not close(share, kept):
                yield f"{task}/{language}: the smaller model answers a share of {share}; {kept} is recorded"
