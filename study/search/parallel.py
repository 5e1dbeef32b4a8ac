"""The searches of all sizes side by side, each in a thread of the driver, as far as the cluster has room for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.storages import JournalStorage

from study.console import Screen
from study.search.callback import TrialLog
from study.search.slots import Room, need_of
from study.search.sweep import Interrupted, Sweep, load_result, wanted_repeats
from study.search.trial_store import SearchResult, TrialRecord
from study.spec import Size, Study
from study.tracking.tracker import Tracking
from trainables.stages.base import Progress

WAKE_S = 0.5  # how often the main thread looks up from its waiting, so that signals reach it
GRACE_S = 2.0  # of three that a stopped job gets until it is killed


@dataclass
class Searches:
    """What the searches of a study's sizes share. `settled` is called with each size's result when its search has ended."""

    study: Study
    sizes: Sequence[Size]
    output: Path
    storage: JournalStorage
    room: Room
    tracking: Tracking
    screen: Screen
    progress: Progress
    settled: Callable[[Size, SearchResult, TrialLog], None]
    retry_failed: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> dict[str, SearchResult]:
        """Every size's search and the repeats of its winners.

        The first error of a size stops the others, as does an interruption of the main thread; what they had finished is kept.

        Raises: what `Sweep.search` does.
        """
        results: dict[str, SearchResult] = {}
        errors: list[BaseException] = []

        def search(size: Size) -> None:
            try:
                results[size.name] = self._search(size)
            except BaseException as error:  # told to the main thread, which raises it
                errors.append(error)
                self._stop.set()

        threads = [threading.Thread(target=search, args=(size,), daemon=True) for size in self._large_last()]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                threads[0].join(WAKE_S) if threads[0].is_alive() else threads.append(threads.pop(0))
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(GRACE_S / len(threads))
        if errors:
            raise next((error for error in errors if not isinstance(error, Interrupted)), errors[0])
        return {size.name: results[size.name] for size in self.sizes}

    def _large_last(self) -> list[Size]:
        """A size that takes the whole cluster for one trial would have the others wait for it."""
        return sorted(self.sizes, key=lambda size: tuple(need_of(size).values())[1::-1])

    def _search(self, size: Size) -> SearchResult:
        log = TrialLog(self.study, size, self.tracking, self.screen)
        sweep = Sweep(
            self.study,
            size,
            self.output.resolve(),
            self.room,
            self.progress,
            callbacks=[log],
            ended=log.ended,
            stop=self._stop,
            retry_failed=self.retry_failed,
        )
        before, _ = load_result(self.study, size, self.storage)
        budget, finished = self.study.budget(size), self._finished(before.trials)
        self.screen.say(f"searching {size.name}: {_trials(budget, finished)}")
        log.expect(budget, finished=finished)
        result = sweep.search(self.storage)
        if again := wanted_repeats(self.study, result):
            finished = self._finished([one for one in before.repeats if one.choice in again])
            self.screen.say(f"repeating {size.name}'s winners with further seeds: {_trials(len(again), finished)}")
            log.expect(len(again), finished=finished)
            result = sweep.repeat(self.storage, result)
        self.settled(size, result, log)
        return result

    def _finished(self, records: Sequence[TrialRecord]) -> int:
        """How many trials of earlier runs of the command are not run again."""

        def again(one: TrialRecord) -> bool:
            return one.retried or (self.retry_failed and one.outcome == "failed" and not one.diverged)

        return sum(not again(one) for one in records)


def _trials(count: int, finished: int) -> str:
    return f"{count} trials" + (f", {finished} of them finished" if finished else "")
