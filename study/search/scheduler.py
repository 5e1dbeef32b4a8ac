"""What Ray Tune asks its scheduler during a search: whether a trial that reported goes on. `study.search.asha` decides it."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from study.errors import reason_of
from study.search.asha import Rungs
from study.search.records import DEV_SCORE, TARGETS_FINISHED
from study.search.searcher import TrialStoreSearcher
from study.search.trial import choice_of


def release_idle_actors(tune_controller: Any) -> None:
    """End the actors that wait for a next trial: their cores are another size's while this one waits for a slot.

    Tune has no public way: it keeps them until a trial comes or the searcher is finished (`TuneController` in Ray 2.60).
    """
    controller = tune_controller._tune_controller
    if not controller._pending_trials:
        controller._cleanup_cached_actors(force_all=True)


class RunAllToTheEnd(FIFOScheduler):  # type: ignore[misc]
    """Stops no trial: the scheduler of the repeats.

    It also does for the searcher what Tune lets only schedulers do: learn of a trial's error, and act at every step.
    """

    def __init__(self, searcher: TrialStoreSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Tune calls this at every step."""
        if self._searcher.waits_for_slot:
            release_idle_actors(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = trial.get_error()
        self._searcher.record_error(trial.trial_id, "lost" if error is None else reason_of(error))
        super().on_trial_error(tune_controller, trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, but nothing reads it back


class RunDefaultsToTheEnd(RunAllToTheEnd):
    """Stops trials as ASHA does, but no default cell: the gains table needs its score on every target."""

    def __init__(self, searcher: TrialStoreSearcher, rungs: Rungs) -> None:
        super().__init__(searcher)
        self._rungs = rungs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if DEV_SCORE not in result:
            return str(TrialScheduler.CONTINUE)
        stops = self._rungs.stops(
            trial.config["trial"],
            choice_of(trial.config),
            targets_finished=int(result[TARGETS_FINISHED]),
            score=float(result[DEV_SCORE]),
        )
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)
