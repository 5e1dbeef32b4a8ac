"""Marks on gains that are not transfer: the intermediate task saw what the target task is trained or scored on."""

from __future__ import annotations

from typing import Literal

Mark = Literal["same data", "leak"]


def mark(
    intermediate_reads: frozenset[str], target_reads: frozenset[str], target_scores_on: frozenset[str]
) -> Mark | None:
    """How an intermediate task's gain on a target is marked in every table; None if it counts as transfer.

    "leak": it reads a corpus that the target is scored on (SQuAD's dev articles are XQuAD's). "same data": it reads one that
    the target is trained on (MNLI before XNLI), so that the gain is that of more training. A leak is the graver of the two.

    Args:
        intermediate_reads: corpora that the intermediate task's training set is made of, as in `Task.reads`.
        target_reads: the same for the target task.
        target_scores_on: corpora that the target's test sets are made of, as in `Task.scores_on`.
    """
    if intermediate_reads & target_scores_on:
        return "leak"
    if intermediate_reads & target_reads:
        return "same data"
    return None
