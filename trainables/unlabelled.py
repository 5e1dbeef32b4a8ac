"""What a model's answers on the target languages' texts say without labels: how sure it is, and whether languages agree.

Both are known before anyone has labelled a target language, so a choice by them is as honest as one by English dev; the report
says what it would have cost. Neither is a score: a model that gives everything one answer agrees with itself perfectly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trainables.heads import HEADS, Outputs
from trainables.tasks.base import Task

ENGLISH = "en"


def unlabelled_signals(outputs: Sequence[Outputs[Any]], task: Task) -> dict[str, float]:
    """Signals in percent, by name; one that the task or its head cannot give is left out. `outputs` are those of all its sets.

    `confidence`: the mean over test languages other than English of the mean over examples of `Head.confidence`.
    `agreement`: for labels on parallel test sets, the mean over pairs of languages, English included, of the share of examples
    with the same answer in both.
    """
    head = HEADS[task.head]
    tests = [output for output in outputs if output.split == "test" and output.language in task.languages]
    sure = [head.confidence(output, task) for output in tests if output.language != ENGLISH]
    known = [values for values in sure if values]
    signals = {"confidence": 100.0 * float(np.mean([np.mean(values) for values in known]))} if known else {}
    if task.parallel and head.comparable:
        answers = [
            {example.id: answer for example, answer in zip(output.examples, head.decode(output, task), strict=True)}
            for output in tests
        ]
        if shares := list(_agreements(answers)):
            signals["agreement"] = 100.0 * float(np.mean(shares))
    return signals


def _agreements(answers: Sequence[dict[str, Any]]) -> Iterator[float]:
    """The share of equal answers of each pair of languages, over the examples that both have."""
    for first, second in itertools.combinations(answers, 2):
        if shared := first.keys() & second.keys():
            yield float(np.mean([first[id] == second[id] for id in shared]))
