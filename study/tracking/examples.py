"""A trial's scores by example, joined from its evaluations into one compact file: the input of the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.heads import HEADS
from trainables.stages.evaluate import Evaluate
from trainables.store.examples import (
    CONFIDENCE,
    EXAMPLES,
    ExamplesUnusable,
    joined_examples,
    read_example_scores,
    write_example_scores,
)
from trainables.store.fingerprint import fingerprint
from trainables.store.opening import open_store


def write_examples(chain: Sequence[Evaluate], output: Path) -> Path | None:
    """Join the examples of a finished chain (`joined_examples`): the file's path, or None while an evaluation is missing.

    Columns: task, split, language, example (its index in the language's set), the sums that the tasks' metrics add up, and how
    sure the model is of each answer. Those that a task does not have are empty. Trials with the same choice share the file.
    """
    store = open_store(output)
    if not chain or any(store.find(evaluate) is None for evaluate in chain):
        return None
    path = output / "examples" / f"{chain[0].model.label}@{fingerprint(tuple(chain))}" / EXAMPLES
    if _is_complete(path, chain):
        return path
    tables = [(evaluate.task.name, read_example_scores(store.local(evaluate) / EXAMPLES)) for evaluate in chain]
    write_example_scores(joined_examples(tables), path)
    return path


def _is_complete(path: Path, chain: Sequence[Evaluate]) -> bool:
    """Whether the joined file can be read, and has what a cascade needs; another one is written again.

    Earlier versions joined no confidences, and then no English dev. What they scored has none to join.
    """
    try:
        joined = read_example_scores(path)
    except ExamplesUnusable:
        return False
    tasks = [evaluate.task for evaluate in chain]
    cascading = {task.name for task in tasks if HEADS[task.head].cascades and task.has_english_dev}
    if not cascading:
        return True
    return CONFIDENCE in joined and cascading <= set(joined.loc[joined["split"] == "dev", "task"])
