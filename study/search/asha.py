"""ASHA's rules: after how many targets trials are compared, and which of them stop (arXiv:1810.05934).

A rung is a number of finished targets. The rungs of a study are `first_rung`, then `reduction_factor` times as many, and so on,
up to the number of its targets: with 9 targets, `first_rung` 2 and `reduction_factor` 2 they are 2, 4 and 8. A trial that
reaches a rung continues if its mean English dev score there is in the best `1 / reduction_factor` of those seen. As in Ray's
`ASHAScheduler`, the trial itself is not among those seen, and the limit between two scores is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from study.search.records import TrialRecord
from study.spec import Study
from study.spec.space import Choice


def rungs(first: int, *, factor: int, targets: int) -> tuple[int, ...]:
    """The numbers of finished targets at which trials are compared."""
    at = [min(first, targets)]
    while at[-1] * factor <= targets:
        at.append(at[-1] * factor)
    return tuple(at)


def falls_behind(score: float, seen: Iterable[float], *, factor: int) -> bool:
    """Whether a score is outside the best `1 / factor` of those seen at a rung; False if none was. NaN is never behind."""
    known = [other for other in seen if not math.isnan(other)]
    return bool(known) and bool(score < np.percentile(known, (1 - 1 / factor) * 100))


class Rungs:
    """The scores at the rungs of one search, by trial."""

    def __init__(self, study: Study, *, exempt: Callable[[Choice], bool], records: Sequence[TrialRecord] = ()) -> None:
        """`exempt` trials never stop, but others are compared with them; `records` are of earlier trials."""
        self._factor, self._exempt = study.reduction_factor, exempt
        at = rungs(study.first_rung, factor=self._factor, targets=len(study.targets))
        self._scores: dict[int, dict[str, float]] = {rung: {} for rung in reversed(at)}
        for record in records:
            for finished, score in sorted(record.partial_scores.items()):
                self.stops(record.trial_id, record.choice, targets_finished=finished, score=score)

    def stops(self, trial: str, choice: Choice, *, targets_finished: int, score: float) -> bool:
        """Whether a trial stops with this dev score after so many targets; later trials are compared with the score.

        A trial is compared once at each rung, also if it is restarted and reports again.
        """
        for rung, scores in self._scores.items():
            if targets_finished >= rung and trial not in scores:
                behind = falls_behind(score, scores.values(), factor=self._factor)
                scores[trial] = score
                return behind and not self._exempt(choice)
        return False
