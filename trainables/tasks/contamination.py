"""Flags gains that are not transfer, and scores of encoders that have seen data of the target.

A gain is not transfer if the intermediate task read data the target is trained or scored on. A score is marked as seen if the
published encoder was trained on a corpus of the target, or in its manner. With translations it is not zero-shot; with an
English corpus it still is, but the encoder is not new to the task.
"""

from __future__ import annotations

from typing import Literal

from trainables.tasks.base import HeadName, Task

ContaminationFlag = Literal["same data", "leak"]
# Kinds of training that teach what a head is scored on, whatever the corpus: translations align the languages' sentences.
TAUGHT: dict[str, tuple[HeadName, ...]] = {
    "bitext": ("bitext_retrieval", "bitext_mining"),
    "retrieval": ("dual_encoder",),
}


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


def seen_data(seen: frozenset[str], target: Task) -> tuple[str, ...]:
    """What of that which an encoder has `seen` marks the target's score, by name; empty if nothing does.

    "bitext" does for retrieval and mining of translations, "retrieval" for dual encoders, and a corpus for a target that is
    trained or scored on it.
    """
    corpora = target.reads | target.scores_on
    return tuple(name for name in sorted(seen) if name in corpora or target.head in TAUGHT.get(name, ()))
