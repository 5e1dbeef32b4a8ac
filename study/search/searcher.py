"""What Ray Tune asks during a search: which trial is next, and whether the sweep is over.

The answers come from the trial store (`study.search.trial_store`); Tune's own state is never used. Early stopping is decided
in `study.search.asha`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from study.search.records import DEV_SCORE, TARGETS_FINISHED, TrialRecord
from study.search.slots import Slots
from study.search.trial import STORAGE, outcome_of, reported_metrics
from study.search.trial_store import TrialStore
from study.spec.space import Choice


class TrialStoreSearcher(Searcher):  # type: ignore[misc]
    """Tune's searcher over a trial store: interrupted trials first, then a queue, then suggestions, while slots are free.

    Ray's own `OptunaSearch` tells Optuna that a trial stopped by ASHA is COMPLETE with its low-fidelity score, leaves a trial
    with a NaN score RUNNING for ever, and suggests choices that were tried already.
    """

    def __init__(
        self,
        trial_store: TrialStore,
        size: str,
        *,
        slots: Slots,
        targets: int,
        suggest_next: Callable[[], Choice | None] = lambda: None,
        turn: Callable[[], bool] | None = None,
        may_start: Callable[[Choice], bool] = lambda choice: True,
        queue: Mapping[Choice, str] = {},
        stop: threading.Event | None = None,
        on_trial_end: Callable[[TrialRecord], None] = lambda record: None,
    ) -> None:
        """Search one size.

        Args:
            targets: how many targets a complete trial has finished.
            suggest_next: the choice of the next trial; None when there is none left.
            turn: whether the next trial of all sizes is this one's, where they take turns.
            may_start: whether a trial fits what is left of the study's time; the search ends with the first that does not.
            queue: trials to run, with their names.
            stop: ends the search once it is set.
            on_trial_end: called with each ended trial, after it is stored.
        """
        super().__init__(metric=DEV_SCORE, mode="max")
        self.trial_store, self._size, self._slots, self._targets = trial_store, size, slots, targets
        self._suggest_next, self._turn, self._may_start = suggest_next, turn, may_start
        self._queue = list(queue.items())
        self._interrupted = sorted(trial_store.unfinished)
        self._numbers: dict[str, int] = {}
        self._latest: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}
        self._stop, self._on_trial_end = threading.Event() if stop is None else stop, on_trial_end
        self.waits_for_slot = False
        self.storage_error: OSError | str | None = None

    @property
    def over(self) -> bool:
        """Whether the search was told to stop, or its storage failed."""
        return self._stop.is_set() or self.storage_error is not None

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Tune's question for the next trial: its config, FINISHED, or None while there is no free slot."""
        if self.over:
            return Searcher.FINISHED  # after None, Tune polls nothing but the searcher for up to ten minutes
        if self._turn is not None and not self._interrupted and not self._turn():
            return self._pause()
        self.waits_for_slot = not self._slots.acquire(self._size, trial_id, alone=self._turn is not None)
        if self.waits_for_slot:
            return None
        try:
            number = self._next()
        except OSError as error:
            self.storage_error, number = error, None
        if number is None:
            self._slots.release(self._size, trial_id)
            return Searcher.FINISHED if self._turn is None else self._pause()
        self._numbers[trial_id] = number
        return {"trial": self.trial_store.trial_id(number), **asdict(self.trial_store.unfinished[number])}

    def _pause(self) -> Any:
        """Wait for the size's turn while trials of it run. Without any, Tune would poll nothing else, and keep idle actors."""
        self.waits_for_slot = True
        return None if self._numbers else Searcher.FINISHED

    def _next(self) -> int | None:
        if self._interrupted:
            resumed = self._may_start(self.trial_store.unfinished[self._interrupted[0]])
            return self._interrupted.pop(0) if resumed else None
        if self._queue:
            return self.trial_store.start(*self._queue.pop(0))
        choice = self._suggest_next()
        return None if choice is None or not self._may_start(choice) else self.trial_store.start(choice)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if STORAGE in result:
            self.storage_error = str(result[STORAGE])
        if TARGETS_FINISHED in result:
            self._latest[trial_id] = reported_metrics(result)
        if DEV_SCORE in result:
            self._store_score(self._numbers.get(trial_id), result)

    def _store_score(self, number: int | None, result: Mapping[str, Any]) -> None:
        try:
            if number is not None and self.storage_error is None:
                self.trial_store.report(number, int(result[TARGETS_FINISHED]), score=float(result[DEV_SCORE]))
        except OSError as error:
            self.storage_error = error

    def record_error(self, trial_id: str, reason: str) -> None:
        """Keep the reason of an error; Tune calls `on_trial_complete` next, without it."""
        self._errors[trial_id] = reason

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number, result = self._numbers.pop(trial_id, None), result or {}
        if number is None:  # Tune may call this twice for a trial
            return
        self._slots.release(self._size, trial_id)
        if STORAGE in result:
            self.storage_error = str(result[STORAGE])
        if self.storage_error is not None:
            return  # no fault of the trial: it stays unfinished, and the next run of the command resumes it
        if DEV_SCORE in result:  # Tune does not pass the report at which it stops a trial to `on_trial_result`
            self._store_score(number, result)
        outcome, reason = outcome_of(result, self._targets, error=self._errors.get(trial_id) if error else None)
        metrics = {**self._latest.pop(trial_id, {}), **reported_metrics(result)}
        try:
            record = self.trial_store.finish(number, outcome, metrics=metrics, reason=reason)
        except OSError as problem:
            self.storage_error = problem
            return
        self._on_trial_end(record)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the trial store is on disk."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a searcher is built from its trial store, never restored from Tune's files")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, but nothing reads it back


class StopSweep(tune.Stopper):  # type: ignore[misc]
    """Ends a trial that reports a storage problem, and the whole sweep once its searcher is over."""

    def __init__(self, searcher: TrialStoreSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return STORAGE in result

    def stop_all(self) -> bool:
        return self._searcher.over

    def __getstate__(self) -> dict[str, Any]:
        return {}
