"""The searches of all sizes side by side, each in a thread of the driver, as far as the cluster has slots for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from optuna.storages import JournalStorage

from study.console import Console
from study.search.callback import TrialLog, TrialObserver
from study.search.front.turns import Turns
from study.search.records import SearchResult, TrialRecord
from study.search.slots import Slots, trial_request
from study.search.sweep import Interrupted, Sweep, load_result, wanted_runs
from study.search.trial_store import TrialStore
from study.spec import Size, Study
from study.spec.space import Choice
from study.tracking.tracker import Tracker
from trainables.stages.base import Progress

WAKE_S = 0.5  # how often the main thread wakes up, so that it can handle signals
# For all searches to stop. A submitted job that is stopped has three seconds until Ray kills it.
GRACE_S = 2.0


@dataclass
class ParallelSearches:
    """The searches of a study's sizes.

    `on_search_end` is called with each size's result, and `after_trial` after each trial that ended and was recorded, both in
    the size's thread. `may_start` says whether a trial of a size still fits the study's budget of time or money. With `turns`,
    which is given the trial store of each size, the sizes share the search (`study.search.front`).
    """

    study: Study
    sizes: Sequence[Size]
    output: Path
    storage: JournalStorage
    slots: Slots
    tracker: Tracker
    console: Console
    progress: Progress
    on_search_end: Callable[[Size, SearchResult, TrialLog], None]
    retry_failed: bool = False
    observer: TrialObserver | None = None
    after_trial: Callable[[], None] = lambda: None
    first: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by size, as in `Sweep`
    may_start: Callable[[str, Choice], bool] = lambda size, choice: True
    turns: Callable[[Mapping[str, TrialStore]], Turns] | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> dict[str, SearchResult]:
        """Search every size and repeat its winners; returns the results by size.

        The first error in a size stops the others, as does an interruption of the main thread. Finished trials are kept.

        Raises: as `Sweep.search` does.
        """
        logs = {size.name: TrialLog(self.study, size, self.tracker, self.console, self.observer) for size in self.sizes}
        sweeps = {size.name: self._sweep(size, logs[size.name]) for size in self.sizes}
        searching = self._searching(sweeps)
        results: dict[str, SearchResult] = {}
        errors: list[BaseException] = []

        def search(size: Size) -> None:
            try:
                results[size.name] = self._search(size, sweeps[size.name], logs[size.name], searching[size.name])
            except BaseException as error:  # raised again in the main thread
                errors.append(error)
                self._stop.set()

        threads = [threading.Thread(target=search, args=(size,), daemon=True) for size in self._largest_last()]
        for thread in threads:
            thread.start()
        try:
            while running := [thread for thread in threads if thread.is_alive()]:
                running[0].join(WAKE_S)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(GRACE_S / len(threads))
        if errors:
            raise next((error for error in errors if not isinstance(error, Interrupted)), errors[0])
        return {size.name: results[size.name] for size in self.sizes}

    def _largest_last(self) -> list[Size]:
        """Sizes by GPUs and cores of a trial: if a trial takes the whole cluster, its size must not block smaller ones."""

        def demand(size: Size) -> tuple[float, float]:
            request = trial_request(size)
            return request["GPU"], request["CPU"]

        return sorted(self.sizes, key=demand)

    def _searching(self, sweeps: Mapping[str, Sweep]) -> dict[str, Callable[[], SearchResult]]:
        """How each size is searched: alone, or in turn with the others."""
        if self.turns is None:
            return {name: partial(sweep.search, self.storage) for name, sweep in sweeps.items()}
        stores = {name: sweep.store(self.storage) for name, sweep in sweeps.items()}
        turns = self.turns(stores)
        return {name: partial(sweep.search_in_turns, stores[name], turns) for name, sweep in sweeps.items()}

    def _sweep(self, size: Size, log: TrialLog) -> Sweep:
        def ended(record: TrialRecord) -> None:
            log.log_end(record)
            self.after_trial()

        return Sweep(
            self.study,
            size,
            self.output.resolve(),
            self.slots,
            self.progress,
            callbacks=[log],
            on_trial_end=ended,
            stop=self._stop,
            retry_failed=self.retry_failed,
            first=self.first.get(size.name, ()),
            may_start=partial(self.may_start, size.name),
        )

    def _search(self, size: Size, sweep: Sweep, log: TrialLog, searching: Callable[[], SearchResult]) -> SearchResult:
        earlier, _ = load_result(self.study, size, storage=self.storage)
        budget, finished = self.study.budget(size), self._kept(earlier.trials)
        self.console.say(f"searching {size.name}: {_trial_count(budget, finished)}")
        log.expect(budget, finished=finished)
        result = searching()
        if repeats := wanted_runs(self.study, size, result, storage=self.storage):
            finished = self._kept([record for record in earlier.repeats if record.choice in repeats])
            self.console.say(
                f"repeating {size.name}'s winners with further seeds: {_trial_count(len(repeats), finished)}"
            )
            log.expect(len(repeats), finished=finished)
            if self.observer is not None:
                self.observer.repeating(size.name, list(repeats))
            result = sweep.repeat(self.storage, result)
        if self.observer is not None:
            self.observer.searched(size.name)
        self.on_search_end(size, result, log)
        return result

    def _kept(self, records: Sequence[TrialRecord]) -> int:
        """How many trials of earlier runs of the command are not run again."""
        return sum(not (record.retried or (self.retry_failed and record.retriable)) for record in records)


def _trial_count(count: int, finished: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}" + (f", {finished} of them finished" if finished else "")
