"""Flags gains that are not transfer, because the intermediate task read data the target is trained or scored on."""

from __future__ import annotations

from typing import Literal

ContaminationFlag = Literal["same data", "leak"]


def contamination_flag(
    intermediate_reads: frozenset[str], target_reads: frozenset[str], target_scores_on: frozenset[str]
) -> ContaminationFlag | None:
    """The flag of an intermediate task's gain on a target; None if the gain counts as transfer.

    "leak": the intermediate task reads a corpus that the target is scored on (SQuAD's dev articles are XQuAD's). "same data":
    it reads a corpus that the target is trained on (MNLI before XNLI), so the gain comes from more training. If both hold,
    the flag is "leak".

    Args:
        intermediate_reads: the corpora of the intermediate task's training set, as in `Task.reads`.
        target_reads: the same for the target task.
        target_scores_on: the corpora of the target's test sets, as in `Task.scores_on`.
    """
    if intermediate_reads & target_scores_on:
        return "leak"
    if intermediate_reads & target_reads:
        return "same data"
    return None
