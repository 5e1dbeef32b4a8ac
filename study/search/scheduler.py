"""Whether a trial is stopped early: ASHA over the number of finished targets.

A rung is a number of finished targets. The rungs of a study are `first_rung`, then `reduction_factor` times as many, and so on,
up to the number of its targets: with 9 targets, `first_rung` 2 and `reduction_factor` 2 they are 2, 4 and 8. A trial that
reaches a rung continues if its mean English dev score there is in the best `1 / reduction_factor` of those seen
(arXiv:1810.05934).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from study.errors import reason_of
from study.search.records import DEV_SCORE, TARGETS_FINISHED, TrialRecord
from study.search.searcher import TrialStoreSearcher
from study.search.trial import choice_of
from study.spec import Size, Study
from study.spec.space import Choice


def asha(study: Study, size: Size, records: Sequence[TrialRecord] = ()) -> RunDefaultsToTheEnd:
    """The scheduler of a size's search, with the scores of its earlier trials at the rungs.

    The caller sets its `searcher` before Tune runs it.
    """
    scheduler = RunDefaultsToTheEnd(
        time_attr=TARGETS_FINISHED,
        metric=DEV_SCORE,
        mode="max",
        grace_period=min(study.first_rung, len(study.targets)),
        reduction_factor=study.reduction_factor,
        max_t=len(study.targets) + 1,  # Ray stops a trial at `max_t`; one that has scored every target ends by itself
    )
    scheduler.is_default = study.space_of(size).is_default
    scheduler.replay(records)
    return scheduler


class _ServesSearcher:
    """Does for the searcher what Tune lets only schedulers do: learn of a trial's error, and act at every step."""

    searcher: TrialStoreSearcher

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Called at every step. Releases idle actors while the searcher waits for a slot: their cores are another size's."""
        controller = tune_controller._tune_controller
        if self.searcher.waits_for_slot and not controller._pending_trials:
            controller._cleanup_cached_actors(force_all=True)
        return super().choose_trial_to_run(tune_controller)  # type: ignore[misc]

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = trial.get_error()
        self.searcher.record_error(trial.trial_id, "lost" if error is None else reason_of(error))
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class RunAllToTheEnd(_ServesSearcher, FIFOScheduler):  # type: ignore[misc]
    """Stops no trial: the scheduler of the repeats."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class RunDefaultsToTheEnd(_ServesSearcher, ASHAScheduler):  # type: ignore[misc]
    """ASHA that never stops a default cell: the gains table needs its score on every target."""

    is_default: Callable[[Choice], bool]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if DEV_SCORE not in result:
            return TrialScheduler.CONTINUE
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if self.is_default(choice_of(trial.config)) else action

    def replay(self, records: Sequence[TrialRecord]) -> None:
        """Enter the scores of earlier trials at the rungs."""
        for record in records:
            for finished, score in sorted(record.partial_scores.items()):
                self.stops(record.trial_id, record.choice, targets_finished=finished, score=score)

    def stops(self, trial_id: str, choice: Choice, *, targets_finished: int, score: float) -> bool:
        """Whether a trial is stopped with this dev score after so many targets; later trials are compared with the score."""
        trial = _ReplayedTrial(trial_id, {"trial": trial_id, **asdict(choice)})
        if trial_id not in self._trial_info:
            self.on_trial_add(None, trial)
        result = {TARGETS_FINISHED: targets_finished, DEV_SCORE: score}
        return self.on_trial_result(None, trial, result) == TrialScheduler.STOP

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class _ReplayedTrial:
    """The attributes of a Tune trial that ASHA reads."""

    trial_id: str
    config: dict[str, Any]
