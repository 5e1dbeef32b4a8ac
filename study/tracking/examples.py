"""A trial's scores by example, joined from its evaluations into one compact file: the input of the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.stages.evaluate import Evaluate
from trainables.store.examples import (
    EXAMPLES,
    ExamplesUnusable,
    joined_tests,
    read_example_scores,
    write_example_scores,
)
from trainables.store.fingerprint import fingerprint
from trainables.store.stage_store import StageStore


def write_examples(chain: Sequence[Evaluate], output: Path) -> Path | None:
    """Join the test examples of a finished chain and return the file's path; None while an evaluation is missing.

    Columns: task, split, language, example (its index in the language's test set), and the sums that the tasks' metrics add up;
    these are empty for a task whose metric has no such sum. Trials with the same choice share the file.
    """
    store = StageStore(output)
    evaluations = [store.find(evaluate) for evaluate in chain]
    if not evaluations or any(evaluation is None for evaluation in evaluations):
        return None
    path = output / "examples" / f"{chain[0].model.label}@{fingerprint(tuple(chain))}" / EXAMPLES
    if _is_usable(path):
        return path
    tables = [
        (evaluate.task.name, read_example_scores(evaluation.folder / EXAMPLES))
        for evaluate, evaluation in zip(chain, evaluations, strict=True)
        if evaluation is not None
    ]
    write_example_scores(joined_tests(tables), path)
    return path


def _is_usable(path: Path) -> bool:
    """Whether the joined file exists and can be read; a damaged one is written again."""
    try:
        read_example_scores(path)
    except ExamplesUnusable:
        return False
    return True
