"""What Ray Tune asks during a search: which trial is next, whether one is stopped, and when all is over.

The answers come from the ledger (`study.search.trial_store`) and the proposer (`study.search.suggestions`). Tune itself keeps nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study.errors import reason_of
from study.search.slots import Room
from study.search.suggestions import Proposer
from study.search.trial import choice_of, judge, reported
from study.search.trial_store import METRIC, RUNG, History, TrialRecord
from study.spec import Study
from study.spec.space import Choice


class LedgerSearcher(Searcher):  # type: ignore[misc]
    """Tune's view of the ledger: interrupted trials first, then a queue or what the proposer says, as far as there is room.

    Ray's own `OptunaSearch` tells a trial that ASHA stopped as COMPLETE with its low-fidelity value, leaves one with a NaN
    RUNNING for ever, and proposes what was tried already.
    """

    def __init__(
        self,
        history: History,
        size: str,
        room: Room,
        *,
        targets: int,
        proposer: Proposer | None = None,
        queue: Mapping[Choice, str] = {},
        stop: threading.Event | None = None,
        ended: Callable[[TrialRecord], None] = lambda record: None,
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.history, self._size, self._room, self._targets = history, size, room, targets
        self._proposer, self._queue = proposer, list(queue.items())
        self._interrupted = sorted(history.open)
        self._numbers: dict[str, int] = {}
        self._latest: dict[str, dict[str, Any]] = {}
        self._reasons: dict[str, str] = {}
        self._stop, self._ended = threading.Event() if stop is None else stop, ended
        self.waits_for_room = False
        self.broken: OSError | str | None = None

    @property
    def over(self) -> bool:
        """Whether the search was told to stop, or its storage failed."""
        return self._stop.is_set() or self.broken is not None

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.over:
            return Searcher.FINISHED  # of a trial that is to come, Tune asks for ten minutes and looks at nothing else
        self.waits_for_room = not self._room.take(self._size)
        if self.waits_for_room:
            return None
        try:
            number = self._next()
        except OSError as error:
            self.broken = error
            self._room.give_back(self._size)
            return Searcher.FINISHED
        if number is None:
            self._room.give_back(self._size)
            return Searcher.FINISHED
        self._numbers[trial_id] = number
        return {"trial": self.history.trial_id(number), **asdict(self.history.open[number])}

    def _next(self) -> int | None:
        if self._interrupted:
            return self._interrupted.pop(0)
        if self._queue:
            return self.history.begin(*self._queue.pop(0))
        choice = None if self._proposer is None else self._proposer.propose()
        return None if choice is None else self.history.begin(choice)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "storage" in result:
            self.broken = str(result["storage"])
        if RUNG in result:
            self._latest[trial_id] = reported(result)
        if METRIC in result:
            self._report(self._numbers.get(trial_id), result)

    def _report(self, number: int | None, result: Mapping[str, Any]) -> None:
        try:
            if number is not None and self.broken is None:
                self.history.report(number, int(result[RUNG]), float(result[METRIC]))
        except OSError as error:
            self.broken = error

    def on_trial_error_reason(self, trial_id: str, reason: str) -> None:
        """Why a trial is about to be completed with an error."""
        self._reasons[trial_id] = reason

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None:  # Tune may say it twice
            return
        self._room.give_back(self._size)
        if "storage" in (result or {}):
            self.broken = str((result or {})["storage"])
        if self.broken is not None:
            return  # not the trial's doing: it is gone on with when there is storage again
        if result and METRIC in result:  # Tune does not pass on the report at which a trial is stopped
            self._report(number, result)
        outcome, reason = judge(result or {}, self._targets, error=self._reasons.get(trial_id) if error else None)
        metrics = {**self._latest.pop(trial_id, {}), **reported(result or {})}
        try:
            record = self.history.end(number, outcome, metrics, reason)
        except OSError as error:
            self.broken = error
            return
        if self._proposer is not None:
            self._proposer.learn(record)
        self._ended(record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk already."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is built from its ledger and never restored")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, which nobody reads again


class _ServesSearcher:
    """What Tune tells only schedulers and a searcher wants: a trial's error, and when to let go of an idle actor."""

    searcher: LedgerSearcher

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """At every step: an actor that no trial waits for holds cores, which are another size's where we have no room."""
        controller = tune_controller._tune_controller
        if self.searcher.waits_for_room and not controller._pending_trials:
            controller._cleanup_cached_actors(force_all=True)
        return super().choose_trial_to_run(tune_controller)  # type: ignore[misc]

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = trial.get_error()
        self.searcher.on_trial_error_reason(trial.trial_id, "lost" if error is None else reason_of(error))
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class ToTheEnd(_ServesSearcher, FIFOScheduler):  # type: ignore[misc]
    """Stops nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class RunDefaultsToTheEnd(_ServesSearcher, ASHAScheduler):  # type: ignore[misc]
    """ASHA that never stops a default cell: without its remaining targets the gains table would have a hole."""

    is_default: Callable[[Choice], bool]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if METRIC not in result:
            return TrialScheduler.CONTINUE
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if self.is_default(choice_of(trial.config)) else action

    def replay(self, records: Sequence[TrialRecord]) -> None:
        """Fill the rungs with what trials of earlier runs of the command scored there."""
        for record in records:
            for rung, score in sorted(record.rungs.items()):
                self.stops(record.trial_id, record.choice, rung=rung, score=score)

    def stops(self, trial_id: str, choice: Choice, *, rung: int, score: float) -> bool:
        """Whether a trial with that score at a rung is stopped; the score counts for those that come after."""
        trial = _Past(trial_id, {"trial": trial_id, **asdict(choice)})
        if trial_id not in self._trial_info:
            self.on_trial_add(None, trial)
        return self.on_trial_result(None, trial, {RUNG: rung, METRIC: score}) == TrialScheduler.STOP

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class _Past:
    """As much of a Tune trial as ASHA looks at."""

    trial_id: str
    config: dict[str, Any]


def asha(study: Study, records: Sequence[TrialRecord] = ()) -> RunDefaultsToTheEnd:
    """The scheduler of a size's sweep, knowing what its earlier trials scored. A sweep tells it its searcher."""
    scheduler = RunDefaultsToTheEnd(
        time_attr=RUNG,
        metric=METRIC,
        mode="max",
        grace_period=min(study.first_rung, len(study.targets)),
        reduction_factor=study.reduction_factor,
        max_t=len(study.targets) + 1,  # above the last rung: a trial that scored every target ends by itself
    )
    scheduler.is_default = study.space.is_default
    scheduler.replay(records)
    return scheduler


class StopWhen(tune.Stopper):  # type: ignore[misc]
    """Ends the sweep when it is told to or storage fails."""

    def __init__(self, searcher: LedgerSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return "storage" in result

    def stop_all(self) -> bool:
        return self._searcher.over

    def __getstate__(self) -> dict[str, Any]:
        return {}
