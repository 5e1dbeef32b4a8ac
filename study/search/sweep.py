"""The search of one size: a Ray Tune sweep with Optuna's TPE and ASHA, then the repeats of its winners.

Tune runs the trials and stores nothing. Every run of the command builds searcher, scheduler and budget from the trial store
(`study.search.trial_store`). Tune's own restore may be ten seconds behind, and starts over silently if its state is unreadable.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from ray import tune
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

from study.cluster.progress_actor import ON_HEAD
from study.errors import StorageFailed, reason_of
from study.search.asha import Rungs
from study.search.front.turns import Turns
from study.search.lost_actors import expect_all_losses
from study.search.records import SearchResult, TrialRecord, repeat_id
from study.search.scheduler import RunAllToTheEnd, RunDefaultsToTheEnd
from study.search.searcher import StopSweep, TrialStoreSearcher
from study.search.slots import Slots, trial_request
from study.search.suggestions import suggest
from study.search.trial import run_trial
from study.search.trial_store import TrialStore, repeats_name, search_name, wanted_in_place
from study.spec import Size, Study
from study.spec.space import Choice
from trainables.resources import WAITING_BYTES, worker_request
from trainables.stages.base import Progress

# How often a trial is restarted after its process or node was lost. On spot machines that is no fault of the trial, and its
# stages resume from their checkpoints. A trial's own error is retried by `study.search.trial`.
MOST_LOSSES = 10

_registering = threading.Lock()  # Tune's registry is process-wide and not thread-safe


class Interrupted(RuntimeError):
    """The search was told to stop before its end."""


def load_result(study: Study, size: Size, *, storage: JournalStorage) -> tuple[SearchResult, bool]:
    """The stored result of a size, and whether it is final: the budget is used up and every wanted repeat has ended."""
    store = TrialStore(storage, search_name(size.name), space=study.space_of(size))
    result = SearchResult(size.name, store.records, ended=store.ended)
    searched = not store.unfinished and (store.counted >= study.budget(size) or store.ended is not None)
    wanted = wanted_runs(study, size, result, storage=storage)
    if not wanted and searched:
        return result, True
    repeats = _repeats_store(study, size, storage)
    result = replace(result, repeats=_wanted_records(repeats, wanted))
    retrying = any(choice in wanted for choice in repeats.unfinished.values())
    return result, searched and not retrying and {repeat.choice for repeat in result.repeats} >= set(wanted)


def wanted_repeats(study: Study, result: SearchResult) -> dict[Choice, str]:
    """The `top` best configurations of a search and its best one without an intermediate task, each with every further seed.

    Trials that differ only in their seed are one configuration: the best of them stands for it, and names its repeats.

    Returns:
        The name of each repeat, by its choice.
    """
    if study.repeats is None:
        return {}
    best: dict[Choice, TrialRecord] = {}
    for trial in result.ranked:
        best.setdefault(replace(trial.choice, seed=None), trial)
    ranked = list(best.values())
    baseline = [] if result.baseline is None else [result.baseline]
    return {
        repeat: repeat_id(trial, repeat.seed)
        for trial in [*ranked[: study.repeats.top], *baseline]
        for repeat in study.repeats_of(trial.choice)
        if repeat.seed is not None
    }


def wanted_runs(study: Study, size: Size, result: SearchResult, *, storage: JournalStorage) -> dict[Choice, str]:
    """Names of the winners' repeats, and of the runs in place of collapsed ones (`study.search.collapsed`), by choice."""
    return wanted_repeats(study, result) | wanted_in_place(storage, repeats_name(size.name))


@dataclass
class Sweep:
    """Trials of one size under Tune.

    `trial` is the function that Tune runs, called with a config and `study`, `size`, `output` and `progress`. `on_trial_end` is
    called with each ended trial, after it is stored. `stop` ends the sweep once it is set. `retry_failed` runs retriable trials
    of earlier runs again. `first` is the order of the default cells, by intermediate choice (`suggest`). `may_start` says
    whether a trial of the search still fits the study's budget of time or money.
    """

    study: Study
    size: Size
    output: Path
    slots: Slots
    progress: Progress
    callbacks: Sequence[tune.Callback] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    on_trial_end: Callable[[TrialRecord], None] = lambda record: None
    retry_failed: bool = False
    first: Sequence[str] = ()
    may_start: Callable[[Choice], bool] = lambda choice: True
    trial: Callable[..., None] | None = None

    def search(self, storage: JournalStorage) -> SearchResult:
        """Search the size, or resume its search; a finished one is returned as it is.

        Raises:
            TrialStoreBroken: the journal cannot be read.
            StorageFailed: the output folder is full, read-only or gone.
            Interrupted: `stop` was set.
        """
        store = self.store(storage)
        if self._left(store) > 0:
            self._search(store, suggest_next=lambda: suggest(store, self.study.seed, first=self.first))
        return SearchResult(self.size.name, store.records)

    def store(self, storage: JournalStorage) -> TrialStore:
        """The size's trials, with those to retry started again.

        Raises:
            TrialStoreBroken: the journal cannot be read.
        """
        store = TrialStore(storage, search_name(self.size.name), space=self.study.space_of(self.size))
        if self.retry_failed:
            store.retry_failed()
        return store

    def search_in_turns(self, store: TrialStore, turns: Turns) -> SearchResult:
        """Search the size with the trials that it gets in turn with others, until no size gets any.

        Between its turns the size has no sweep, so that it holds no cores.

        Raises: as `search` does.
        """
        name = self.size.name

        def turn() -> bool:
            return turns.choice(name) is not None

        while self._left(store) > 0 and (store.unfinished or turns.wait(name, until=self.stop.is_set)):
            if not all(map(self.may_start, store.unfinished.values())):
                break
            self._search(store, suggest_next=lambda: turns.choice(name), turn=turn)
        reason = turns.reason(name)  # before it leaves: a size that has left has no reason of its own
        turns.leave(name)
        if self.stop.is_set():
            raise Interrupted(f"{name}: stopped; {len(store.records)} trials are finished")
        if reason is not None:
            store.end(reason)
        return SearchResult(name, store.records, ended=store.ended)

    def _left(self, store: TrialStore) -> int:
        to_start = 0 if store.ended else self.study.budget(self.size) - store.counted
        return to_start + len(store.unfinished)  # a search that ended still retries what failed

    def _search(self, store: TrialStore, **suggestions: Any) -> None:
        searcher = self._searcher(store, may_start=self.may_start, **suggestions)
        rungs = Rungs(self.study, exempt=store.space.is_default, records=store.records)
        name = search_name(self.size.name)
        self._run(searcher, RunDefaultsToTheEnd(searcher, rungs), trials=self._left(store), name=name)

    def repeat(self, storage: JournalStorage, result: SearchResult) -> SearchResult:
        """Run the missing repeats, and return the result with all that are wanted (`wanted_runs`).

        Raises: as `search` does.
        """
        wanted = wanted_runs(self.study, self.size, result, storage=storage)
        if not wanted:
            return result
        store = _repeats_store(self.study, self.size, storage)
        if self.retry_failed:
            store.retry_failed()
        started = {*store.unfinished.values(), *(record.choice for record in store.records)}
        missing = {choice: name for choice, name in wanted.items() if choice not in started}
        left = len(missing) + len(store.unfinished)
        if left:
            searcher = self._searcher(store, queue=missing)
            self._run(searcher, RunAllToTheEnd(searcher), trials=left, name=repeats_name(self.size.name))
        return replace(result, repeats=_wanted_records(store, wanted))

    def _searcher(self, store: TrialStore, **suggestions: Any) -> TrialStoreSearcher:
        return TrialStoreSearcher(
            store,
            self.size.name,
            slots=self.slots,
            targets=len(self.study.targets),
            stop=self.stop,
            on_trial_end=self.on_trial_end,
            **suggestions,
        )

    def _run(self, searcher: TrialStoreSearcher, scheduler: RunAllToTheEnd, *, trials: int, name: str) -> None:
        tuner = self._tuner(searcher, scheduler, trials=trials, name=name)
        try:
            with self.slots.admitted(self.size.name, trial_request(self.size), trials=trials, until=self.stop.is_set):
                if not self.stop.is_set():
                    tuner.fit()
        except OSError as error:
            raise StorageFailed(reason_of(error), self.output) from error
        if searcher.storage_error is not None:
            raise StorageFailed(searcher.storage_error, self.output)
        if self.stop.is_set():
            raise Interrupted(f"{name}: stopped; {len(searcher.trial_store.records)} trials are finished")

    def _tuner(self, searcher: TrialStoreSearcher, scheduler: RunAllToTheEnd, *, trials: int, name: str) -> tune.Tuner:
        folder = (self.output / "tune").resolve()
        shutil.rmtree(folder / name, ignore_errors=True)  # files of an earlier Tune, which nothing reads
        return tune.Tuner(
            self._registered(f"{self.study.name}-{name}"),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=trials,
                # A stopped trial that launched a group must lose its actor: only then does Ray Train release the group's cores.
                reuse_actors=self.size.resources.inline,
                trial_name_creator=lambda trial: trial.config["trial"],
                trial_dirname_creator=lambda trial: trial.config["trial"],
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(folder),
                callbacks=list(self.callbacks),
                failure_config=tune.FailureConfig(max_failures=MOST_LOSSES),
                stop=StopSweep(searcher),
                verbose=0,
            ),
        )

    def _registered(self, name: str) -> str:
        """Register the trial function with Tune under the name, and return the name."""
        # A trial that launches a group only waits for it, but Tune requires a request for resources.
        waiting = {"memory": WAITING_BYTES, **ON_HEAD}
        request = worker_request(self.size.resources) if self.size.resources.inline else waiting
        run: Callable[..., None] = self.trial or run_trial
        # Names of their own: what the function refers to is pickled, and `self` is not to be.
        study, size, output, progress = self.study, self.size, str(self.output), self.progress

        def trial(config: dict[str, Any]) -> None:
            run(config, study=study, size=size, output=output, progress=progress)

        # Not `tune.with_parameters`, which keeps the values in the object store: if this node is lost, Ray ends a process that
        # has objects there, without saying why (`study.cluster.node_watch`).
        with _registering:
            tune.register_trainable(name, tune.with_resources(trial, request), warn=False)
        return name


def _wanted_records(repeats: TrialStore, wanted: Mapping[Choice, str]) -> tuple[TrialRecord, ...]:
    """The repeats of the present winners; those of former winners stay in the journal."""
    return tuple(record for record in repeats.records if record.choice in wanted)


def _repeats_store(study: Study, size: Size, storage: JournalStorage) -> TrialStore:
    return TrialStore(storage, repeats_name(size.name), space=study.space_of(size), repeats=True)


expect_all_losses()
# Tune passes the driver's AWS keys to its trials in a runtime environment, which Ray logs and shows on its dashboard. Trials
# need none: stages are stored in a folder that every node mounts.
ENV_VARS_TO_PROPAGATE.difference_update({name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")})
logging.getLogger("ray.tune").setLevel(
    logging.ERROR
)  # it warns that its result files are missing: MLflow has the results
