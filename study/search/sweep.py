"""The search of one size: a Ray Tune sweep with Optuna's TPE, pruned by ASHA over "targets finished"; then the repeats.

Tune runs trials and keeps nothing: what began and what came of it stands in the ledger (`study.search.trial_store`), from which every run
of the command builds searcher, scheduler and budget anew. Tune's own restore would start over in silence where its state is
unreadable, and may be ten seconds behind.
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
from study.search.searcher import LedgerSearcher, RunDefaultsToTheEnd, StopWhen, ToTheEnd, asha
from study.search.slots import Room, need_of
from study.search.suggestions import Proposer
from study.search.trial import run_trial
from study.search.trial_store import History, SearchResult, TrialRecord, repeat_id, repeats_name, search_name
from study.spec import Size, Study
from study.spec.space import Choice
from trainables.stages.base import Progress

TRIAL_DRIVER_BYTES = 256 * 2**20
# How often a trial is started again after its process or node was lost: on spot machines that is no fault of the trial, and its
# stages go on from their checkpoints. An error of its own is another matter (`study.search.trial`).
MOST_LOSSES = 10


_registering = threading.Lock()


class Interrupted(RuntimeError):
    """The search was told to stop before its end."""


def load_result(study: Study, size: Size, storage: JournalStorage) -> tuple[SearchResult, bool]:
    """What the journal holds of a size, and whether that is all: the budget's trials, and every repeat they ask for."""
    history = History(storage, search_name(size.name), study.space)
    result = SearchResult(size.name, history.records)
    done = not history.open and history.counted >= study.budget(size)
    wanted = wanted_repeats(study, result)
    if not wanted and done:
        return result, True
    repeats = _repeats_history(study, size, storage)
    result = SearchResult(size.name, history.records, _current(repeats, wanted))
    again = any(choice in wanted for choice in repeats.open.values())  # a failed one that is being tried again
    return result, done and not again and {one.choice for one in result.repeats} >= set(wanted)


def wanted_repeats(study: Study, result: SearchResult) -> dict[Choice, str]:
    """The `top` best configurations of a search and its best without an intermediate task, each with every further seed.

    Trials that differ in their seed alone are one configuration: its best stands for it, and names its repeats.

    Returns:
        The name of each repeat, by what it chooses.
    """
    if study.repeats is None:
        return {}
    best: dict[Choice, TrialRecord] = {}
    for trial in result.ranked:
        best.setdefault(replace(trial.choice, seed=None), trial)
    ranked = list(best.values())
    baseline = [trial for trial in ranked if trial.choice.lr_intermediate is None][:1]
    return {
        again: repeat_id(trial, again.seed)
        for trial in [*ranked[: study.repeats.top], *baseline]
        for again in study.repeated(trial.choice)
        if again.seed is not None
    }


@dataclass
class Sweep:
    """Trials of one size under Tune, with what they need: where they run, who is told, and when to stop.

    `trial` is the function that Tune runs, called with a config and `study`, `size`, `output` and `progress`. `ended` is told
    what each trial came to, once that stands in the ledger. `retry_failed` begins trials that failed in earlier runs again, but
    for those that diverged.
    """

    study: Study
    size: Size
    output: Path
    room: Room
    progress: Progress
    callbacks: Sequence[tune.Callback] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    ended: Callable[[TrialRecord], None] = lambda record: None
    retry_failed: bool = False
    trial: Callable[..., None] | None = None

    def search(self, storage: JournalStorage) -> SearchResult:
        """Search the size, or go on with a search that was interrupted; a finished one is returned as it is.

        Raises:
            LedgerBroken: the journal of an earlier run is there and cannot be read.
            StorageFailed: the output folder is full, read-only or gone.
            Interrupted: `stop` was set.
        """
        history = History(storage, search_name(self.size.name), self.study.space)
        if self.retry_failed:
            history.retry_failed()
        left = self.study.budget(self.size) - history.counted + len(history.open)
        if left > 0:
            proposer = Proposer(
                self.study.space,
                self.study.seed,
                known=history.records,
                running=list(history.open.values()),
            )
            searcher = self._searcher(history, proposer=proposer)
            self._run(searcher, asha(self.study, history.records), trials=left, name=search_name(self.size.name))
        return SearchResult(self.size.name, history.records)

    def repeat(self, storage: JournalStorage, result: SearchResult) -> SearchResult:
        """The search's result with the repeats of its winners, those that are missing run now. Raises as `search` does."""
        wanted = wanted_repeats(self.study, result)
        if not wanted:
            return result
        history = _repeats_history(self.study, self.size, storage)
        if self.retry_failed:
            history.retry_failed()
        begun = {*history.open.values(), *(record.choice for record in history.records)}
        missing = {choice: name for choice, name in wanted.items() if choice not in begun}
        left = len(missing) + len(history.open)
        if left:
            searcher = self._searcher(history, queue=missing)
            self._run(searcher, ToTheEnd(), trials=left, name=repeats_name(self.size.name))
        return SearchResult(self.size.name, result.trials, _current(history, wanted))

    def _registered(self, name: str) -> str:
        """The trial function under a name in Tune's table of trainables, which is one for all threads and guards itself not."""
        # A trial that launches a group waits for it and computes nothing; Tune wants it to ask for something.
        waits = {"memory": TRIAL_DRIVER_BYTES, **ON_HEAD}
        needs = {"CPU": self.size.resources.cpus} if self.size.resources.inline else waits
        own = {"study": self.study, "size": self.size, "output": str(self.output), "progress": self.progress}
        with _registering:
            trainable = tune.with_parameters(self.trial or run_trial, **own)
            tune.register_trainable(name, tune.with_resources(trainable, needs), warn=False)
        return name

    def _searcher(self, history: History, **proposes: Any) -> LedgerSearcher:
        targets = len(self.study.targets)
        return LedgerSearcher(
            history, self.size.name, self.room, targets=targets, stop=self.stop, ended=self.ended, **proposes
        )

    def _run(
        self, searcher: LedgerSearcher, scheduler: RunDefaultsToTheEnd | ToTheEnd, *, trials: int, name: str
    ) -> None:
        scheduler.searcher = searcher
        size, folder = self.size, (self.output / "tune").resolve()
        shutil.rmtree(folder / name, ignore_errors=True)  # what an earlier Tune left there is of no use
        tuner = tune.Tuner(
            self._registered(f"{self.study.name}-{name}"),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=trials,
                # A stopped trial that launched a group must lose its actor: that is how Ray Train learns to free its cores.
                reuse_actors=size.resources.inline,
                trial_name_creator=lambda trial: trial.config["trial"],
                trial_dirname_creator=lambda trial: trial.config["trial"],
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(folder),
                callbacks=list(self.callbacks),
                failure_config=tune.FailureConfig(max_failures=MOST_LOSSES),
                stop=StopWhen(searcher),
                verbose=0,
            ),
        )
        try:
            with self.room.entered(size.name, need_of(size), trials, until=self.stop.is_set):
                if not self.stop.is_set():
                    tuner.fit()
        except OSError as error:
            raise StorageFailed(reason_of(error), self.output) from error
        if searcher.broken is not None:
            raise StorageFailed(searcher.broken, self.output)
        if self.stop.is_set():
            raise Interrupted(f"{name}: stopped; {len(searcher.history.records)} trials are finished")


def _current(history: History, wanted: Mapping[Choice, str]) -> tuple[TrialRecord, ...]:
    """The repeats that are wanted now; those of a choice that was best before stay in the journal."""
    return tuple(record for record in history.records if record.choice in wanted)


def _repeats_history(study: Study, size: Size, storage: JournalStorage) -> History:
    return History(storage, repeats_name(size.name), study.space, repeats=True)


# Tune hands the cloud keys of the driver's environment to its trials in a runtime environment, which Ray writes into its logs
# and shows as the actor's. No trial needs them: stages go through a folder that every node has mounted.
ENV_VARS_TO_PROPAGATE.difference_update({name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")})
logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns that its own result files are missing: MLflow has them
