"""The search of one size: a Ray Tune sweep with Optuna's TPE, pruned by ASHA over "targets finished"; then the repeats.

Tune runs trials and keeps nothing: what began and what came of it stands in the ledger (`study.history`), from which every run
of the command builds searcher, scheduler and budget anew. Tune's own restore would start over in silence where its state is
unreadable, and may be ten seconds behind.
"""

from __future__ import annotations

import errno
import logging
import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
from optuna.storages import JournalStorage
from ray import tune
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study.cluster import ON_HEAD
from study.history import METRIC, RUNG, History, Outcome, SearchResult, TrialRecord, repeat_id
from study.propose import Proposer
from study.redact import redacted
from study.room import Room, need_of
from study.space import Choice
from study.spec import Size, Study
from trainables.chain import SCORE_PREFIXES
from trainables.launch import Job, run_group, run_inline
from trainables.stages.base import Progress

TRIAL_DRIVER_BYTES = 256 * 2**20
# How often a trial is started again after its process or node was lost: on spot machines that is no fault of the trial, and its
# stages go on from their checkpoints. An error of its own is tried once more and is its result then.
MOST_LOSSES = 10
ATTEMPTS = 2
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


class StorageFailed(RuntimeError):
    """The output folder takes nothing any more; nothing that was finished is lost."""


class Interrupted(RuntimeError):
    """The search was told to stop before its end."""


def search_name(size: Size) -> str:
    """The search's name in the journal."""
    return size.name


def repeats_name(size: Size) -> str:
    """The name of a size's repeats in the journal."""
    return f"{size.name}.repeats"


def load_result(study: Study, size: Size, storage: JournalStorage) -> tuple[SearchResult, bool]:
    """What the journal holds of a size, and whether that is all: the budget's trials, and every repeat they ask for."""
    history = History(storage, search_name(size), study.space)
    result = SearchResult(size.name, history.records)
    done = not history.open and history.counted >= study.budget(size)
    wanted = wanted_repeats(study, result)
    if not wanted and done:
        return result, True
    repeats = _repeats_history(study, size, storage)
    result = SearchResult(size.name, history.records, _current(repeats, wanted))
    return result, done and {one.choice for one in result.repeats} >= set(wanted)


def wanted_repeats(study: Study, result: SearchResult) -> dict[Choice, str]:
    """The `top` best choices of a search and its best without an intermediate task, each with every further seed; by name."""
    if study.repeats is None:
        return {}
    ranked = result.ranked
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

    `trial` is the function that Tune runs, called with a config and `study`, `size`, `output` and `progress`. `retry_failed`
    begins trials that failed in earlier runs again, but for those that diverged.
    """

    study: Study
    size: Size
    output: Path
    room: Room
    progress: Progress
    callbacks: Sequence[tune.Callback] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    retry_failed: bool = False
    trial: Callable[..., None] | None = None

    def search(self, storage: JournalStorage) -> SearchResult:
        """Search the size, or go on with a search that was interrupted; a finished one is returned as it is.

        Raises:
            LedgerBroken: the journal of an earlier run is there and cannot be read.
            StorageFailed: the output folder is full, read-only or gone.
            Interrupted: `stop` was set.
        """
        history = History(storage, search_name(self.size), self.study.space)
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
            searcher = LedgerSearcher(history, self.size.name, self.room, proposer=proposer, targets=self._targets)
            self._run(searcher, asha(self.study, history.records), trials=left, name=search_name(self.size))
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
            searcher = LedgerSearcher(history, self.size.name, self.room, queue=missing, targets=self._targets)
            self._run(searcher, _ToTheEnd(), trials=left, name=repeats_name(self.size))
        return SearchResult(self.size.name, result.trials, _current(history, wanted))

    @property
    def _targets(self) -> int:
        return len(self.study.targets)

    def _run(
        self, searcher: LedgerSearcher, scheduler: RunDefaultsToTheEnd | _ToTheEnd, *, trials: int, name: str
    ) -> None:
        scheduler.searcher = searcher
        size, folder = self.size, (self.output / "tune").resolve()
        shutil.rmtree(folder / name, ignore_errors=True)  # what an earlier Tune left there is of no use
        trainable = tune.with_parameters(
            self.trial or run_trial, study=self.study, size=size, output=str(self.output), progress=self.progress
        )
        # Tune registers trainables by name in one table, and sizes search at the same time.
        trainable.__name__ = f"{self.study.name}-{name}"
        tuner = tune.Tuner(
            tune.with_resources(
                trainable,
                # A trial that launches a group waits for it and computes nothing; Tune wants it to ask for something.
                {"CPU": size.resources.cpus} if size.resources.inline else {"memory": TRIAL_DRIVER_BYTES, **ON_HEAD},
            ),
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
                stop=_StopWhen(searcher, self.stop),
                verbose=0,
            ),
        )
        try:
            with self.room.entered(size.name, need_of(size), trials, until=self.stop.is_set):
                if not self.stop.is_set():
                    tuner.fit()
        except OSError as error:
            raise _as_storage_failure(error, self.output) from error
        if searcher.broken is not None:
            raise _as_storage_failure(searcher.broken, self.output)
        if self.stop.is_set():
            raise Interrupted(f"{name}: stopped; {len(searcher.history.records)} trials are finished")


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
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.history, self._size, self._room, self._targets = history, size, room, targets
        self._proposer, self._queue = proposer, list(queue.items())
        self._interrupted = sorted(history.open)
        self._numbers: dict[str, int] = {}
        self._latest: dict[str, dict[str, Any]] = {}
        self._reasons: dict[str, str] = {}
        self.broken: OSError | str | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.broken is not None or not self._room.take(self._size):
            return None
        try:
            number = self._next()
        except OSError as error:
            self.broken = error
            self._room.give_back(self._size)
            return None
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
            self._latest[trial_id] = _ours(result)
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
        metrics = {**self._latest.pop(trial_id, {}), **_ours(result or {})}
        try:
            record = self.history.end(number, outcome, metrics, reason)
        except OSError as error:
            self.broken = error
            return
        if self._proposer is not None:
            self._proposer.learn(record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk already."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is built from its ledger and never restored")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, which nobody reads again


def judge(result: dict[str, Any], targets: int, *, error: str | None) -> tuple[Outcome, str | None]:
    """What a trial came to by its last report, and why where it failed."""
    finished, score = result.get(RUNG, 0), result.get(METRIC, math.nan)
    if error is not None:
        return "failed", error
    if "diverged" in result:
        return "failed", f"diverged: {result['diverged']}"
    if "error" in result:
        return "failed", str(result["error"])
    if not finished:
        return "failed", "ended without a report"
    if not math.isfinite(score):
        return "failed", f"its dev score is {score}"
    return ("complete" if finished == targets else "stopped_early"), None


class _NotesReasons:
    """Schedulers hear of an error before the searcher does, and with the trial."""

    searcher: LedgerSearcher

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = trial.get_error()
        self.searcher.on_trial_error_reason(trial.trial_id, "lost" if error is None else _reason(error))
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class _ToTheEnd(_NotesReasons, FIFOScheduler):  # type: ignore[misc]
    """Stops nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class RunDefaultsToTheEnd(_NotesReasons, ASHAScheduler):  # type: ignore[misc]
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
        grace_period=1,
        reduction_factor=study.reduction_factor,
        max_t=len(study.targets) + 1,  # above the last rung: a trial that scored every target ends by itself
    )
    scheduler.is_default = study.space.is_default
    scheduler.replay(records)
    return scheduler


class _StopWhen(tune.Stopper):  # type: ignore[misc]
    """Ends the sweep when it is told to or storage fails."""

    def __init__(self, searcher: LedgerSearcher, stop: threading.Event) -> None:
        self._searcher, self._stop = searcher, stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return "storage" in result

    def stop_all(self) -> bool:
        return self._stop.is_set() or self._searcher.broken is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


def choice_of(config: dict[str, Any]) -> Choice:
    """The choice behind a Tune config."""
    return Choice(**{name: value for name, value in config.items() if name != "trial"})


def run_trial(config: dict[str, Any], *, study: Study, size: Size, output: str, progress: Progress) -> None:
    """A Tune trial: the chain of its choice, inline or on a Ray Train group.

    A lost process or node is Tune's to make good; an error in the trial itself is tried once more here and then reported.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            job = Job(output, size.resources, chain=study.chain(size, choice_of(config)), size=size.name)
            if size.resources.inline:
                run_inline(job, report=tune.report, progress=progress)
            else:
                name = f"{size.name}-{config['trial']}"
                run_group(job, name=name, progress=progress, callbacks=[TuneReportCallback()])
            return
        except Exception as error:
            causes = _causes(error)
            if (full := next((one for one in causes if _is_storage(one)), None)) is not None:
                tune.report({"storage": _reason(full)})
                return
            if any(isinstance(one, ray.exceptions.RayError) and not _is_task_error(one) for one in causes):
                raise
            logging.getLogger(__name__).exception("%s %s, attempt %d", size.name, config["trial"], attempt)
            if attempt == ATTEMPTS:
                tune.report({"error": _reason(causes[-1])})


def _causes(error: BaseException) -> list[BaseException]:
    """The error, then those of a group's workers, then what Ray wrapped."""
    found = [error, *getattr(error, "worker_failures", {}).values()]
    return [*found, *(cause for one in found if isinstance(cause := getattr(one, "cause", None), BaseException))]


def _is_task_error(error: BaseException) -> bool:
    return isinstance(error, ray.exceptions.RayTaskError)


def _is_storage(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in STORAGE_ERRORS


def _as_storage_failure(error: OSError | str, output: Path) -> StorageFailed:
    return StorageFailed(
        f"--output {output} cannot be written: {error}. What is finished is kept; when it can be, the same command goes on"
    )


def _current(history: History, wanted: Mapping[Choice, str]) -> tuple[TrialRecord, ...]:
    """The repeats that are wanted now; those of a choice that was best before stay in the journal."""
    return tuple(record for record in history.records if record.choice in wanted)


def _repeats_history(study: Study, size: Size, storage: JournalStorage) -> History:
    return History(storage, repeats_name(size), study.space, repeats=True)


def _ours(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of a Tune result what the trial reported."""

    def ours(key: str) -> bool:
        return key in (METRIC, RUNG, "test_score") or key.split("/")[0] in SCORE_PREFIXES

    return {key: value for key, value in result.items() if ours(key) and isinstance(value, (int, float))}


def _reason(error: BaseException) -> str:
    """The innermost cause in one line."""
    cause = getattr(error, "cause", None) or error
    return redacted(f"{type(cause).__name__}: {cause}".strip().splitlines()[-1])[:500]


# Tune hands the cloud keys of the driver's environment to its trials in a runtime environment, which Ray writes into its logs
# and shows as the actor's. No trial needs them: stages go through a folder that every node has mounted.
ENV_VARS_TO_PROPAGATE.difference_update({name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")})
logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns that its own result files are missing: MLflow has them
