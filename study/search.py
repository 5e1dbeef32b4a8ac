"""The search of one size: a Ray Tune sweep with Optuna's TPE, pruned by ASHA over "targets finished"."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from study.redact import redacted
from study.spec import NONE, Choice, Size, Study
from trainables.chain import SCORE_PREFIXES
from trainables.launch import Job, run_group, run_inline
from trainables.stages.base import Progress

METRIC, RUNG = "dev_score", "targets_finished"
TRIAL_DRIVER_BYTES = 256 * 2**20
MAX_TRIAL_FAILURES = 1  # a trial is started once more; its finished stages are found in the store


@dataclass(frozen=True)
class TrialRecord:
    """What became of a trial: `outcome` is complete, stopped_early or failed; scores in percent."""

    trial_id: str
    choice: Choice
    outcome: str
    metrics: dict[str, Any]
    reason: str | None = None

    @property
    def dev_score(self) -> float | None:
        return self.metrics.get(METRIC) if self.outcome == "complete" else None


@dataclass(frozen=True)
class SearchResult:
    """A finished search of a size."""

    size: str
    trials: tuple[TrialRecord, ...]

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the highest English dev score; the earliest of equals."""
        complete = [trial for trial in self.trials if trial.dev_score is not None]
        return max(complete, key=lambda trial: trial.dev_score or 0.0, default=None)

    def count(self, outcome: str) -> int:
        return sum(trial.outcome == outcome for trial in self.trials)

    def save(self, path: Path) -> None:
        """Written last and at once: a file that exists is a search that ended."""
        temporary = path.with_suffix(".unfinished")
        temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        os.replace(temporary, path)

    @staticmethod
    def load(path: Path) -> SearchResult | None:
        """The saved search, or None if there is none."""
        if not path.exists():
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
        trials = tuple(TrialRecord(**{**trial, "choice": Choice(**trial["choice"])}) for trial in document["trials"])
        return SearchResult(document["size"], trials)


def search_file(output: Path, size: Size) -> Path:
    """Where a size's finished search is kept."""
    return output / "tune" / f"{size.name}.json"


class SearchStateLost(RuntimeError):
    """A sweep was begun here and its state cannot be read back."""


class HonestOptunaSearch(OptunaSearch):  # type: ignore[misc]
    """Tells Optuna the truth: a trial without a finite score is FAIL, one that ASHA stopped is PRUNED, none stays RUNNING.

    Ray's own class tells a stopped trial as COMPLETE with its low-fidelity value, and leaves one with a NaN RUNNING for
    ever, which Optuna's TPE then feeds into its model.
    """

    targets: int = 1

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if math.isfinite(result.get(METRIC, math.nan)):
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials or trial_id not in self._ot_trials:
            return
        value = (result or {}).get(METRIC)
        state = optuna.trial.TrialState.COMPLETE
        if error or value is None or not math.isfinite(value):
            state, value = optuna.trial.TrialState.FAIL, None
        elif (result or {}).get(RUNG, 0) < self.targets:
            state, value = optuna.trial.TrialState.PRUNED, None
        self._ot_study.tell(self._ot_trials[trial_id], value, state=state)
        self._completed_trials.add(trial_id)


class RunDefaultsToTheEnd(ASHAScheduler):  # type: ignore[misc]
    """ASHA that never stops a default cell: without its remaining targets the gains table would have a hole."""

    is_default: Callable[[dict[str, Any]], bool]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if self.is_default(trial.config) else action


def choice_of(config: dict[str, Any]) -> Choice:
    """The choice behind a Tune config."""
    rate = config.get("lr_intermediate")
    return Choice(config["intermediate"], None if rate in (None, NONE) else rate, config["lr_target"])


def run_search(
    study: Study,
    size: Size,
    output: Path,
    *,
    concurrent: int,
    progress: Progress,
    callbacks: list[tune.Callback],
) -> SearchResult:
    """Search a size, or go on with a search that was interrupted; a finished one is returned as it is.

    Raises:
        SearchStateLost: Tune's state of an earlier run is there and cannot be restored.
    """
    folder, saved = output / "tune", search_file(output, size)
    if (done := SearchResult.load(saved)) is not None:
        return done
    trainable = tune.with_resources(
        tune.with_parameters(_trial, study=study, size=size, output=str(output), progress=progress),
        # A trial that launches a group waits for it and computes nothing; Tune wants it to ask for something.
        {"CPU": size.resources.cpus} if size.resources.inline else {"memory": TRIAL_DRIVER_BYTES},
    )
    experiment = folder / size.name
    run_config = tune.RunConfig(
        name=size.name,
        storage_path=str(folder.resolve()),
        callbacks=callbacks,
        failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_FAILURES),
        verbose=0,
    )
    if experiment.exists():
        if not tune.Tuner.can_restore(str(experiment)):
            raise SearchStateLost(
                f"{experiment} holds a search that was begun and whose state cannot be read. Its finished stages are safe in "
                f"{output / 'stages'}: remove {experiment} to search again on top of them."
            )
        tuner = tune.Tuner.restore(str(experiment), trainable, resume_unfinished=True, resume_errored=True)
        tuner._local_tuner._run_config.callbacks = callbacks  # a restored tuner forgets them: they are not pickled
    else:
        tuner = tune.Tuner(
            trainable, tune_config=tune_config(study, size, concurrent=concurrent), run_config=run_config
        )
    results = tuner.fit()
    trials = tuple(_record(result, len(study.targets)) for result in results)
    result = SearchResult(size.name, trials)
    if len(trials) < study.budget(size):
        raise SearchStateLost(
            f"{size.name}: {len(trials)} of {study.budget(size)} trials came back; run the same command again"
        )
    result.save(saved)
    return result


def tune_config(study: Study, size: Size, *, concurrent: int) -> tune.TuneConfig:
    """Searcher, scheduler and budget of a size's sweep."""
    points = [
        {"intermediate": choice.intermediate, "lr_target": choice.lr_target}
        | ({} if choice.lr_intermediate is None else {"lr_intermediate": choice.lr_intermediate})
        for choice in study.space.defaults()
    ]
    search = HonestOptunaSearch(
        space=_DefineByRun(study),
        metric=METRIC,
        mode="max",
        points_to_evaluate=points,
        # Conditional parameters want the group decomposition; startup trials are the enqueued ones.
        sampler=optuna.samplers.TPESampler(
            seed=study.seed, multivariate=True, group=True, n_startup_trials=len(points), constant_liar=True
        ),
    )
    search.targets = len(study.targets)
    scheduler = RunDefaultsToTheEnd(
        time_attr=RUNG,
        metric=METRIC,
        mode="max",
        grace_period=1,
        reduction_factor=study.reduction_factor,
        max_t=len(study.targets) + 1,  # above the last rung: a trial that scored every target ends by itself
    )
    scheduler.is_default = _DefaultCells(study)
    return tune.TuneConfig(
        search_alg=search,
        scheduler=scheduler,
        num_samples=study.budget(size),
        max_concurrent_trials=concurrent,
        # A stopped trial that launched a group must lose its actor: that is how Ray Train learns to free the group's cores.
        reuse_actors=size.resources.inline,
        trial_name_creator=lambda trial: trial.trial_id,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


@dataclass(frozen=True)
class _DefaultCells:
    """Whether a config is a default cell (a class, so that Tune can pickle the scheduler)."""

    study: Study

    def __call__(self, config: dict[str, Any]) -> bool:
        return self.study.space.is_default(choice_of(config))


@dataclass(frozen=True)
class _DefineByRun:
    """Optuna's define-by-run space: an intermediate's learning rate exists only if there is an intermediate.

    A class and not a closure, because the searcher's state is pickled.
    """

    study: Study

    def __call__(self, trial: optuna.Trial) -> dict[str, Any] | None:
        space = self.study.space
        name = trial.suggest_categorical("intermediate", space.names)
        trial.suggest_categorical("lr_target", space.lr_target)
        if name == NONE:
            return {"lr_intermediate": NONE}
        trial.suggest_categorical("lr_intermediate", space.lr_intermediate)
        return None


def _trial(config: dict[str, Any], *, study: Study, size: Size, output: str, progress: Progress) -> None:
    """A Tune trial: the chain of its choice, inline or on a Ray Train group."""
    job = Job(output, size.resources, chain=study.chain(size, choice_of(config)), size=size.name)
    trial_id = tune.get_context().get_trial_id()
    if size.resources.inline:
        run_inline(job, report=tune.report, progress=progress)
    else:
        run_group(job, name=f"{size.name}-{trial_id}", progress=progress, callbacks=[TuneReportCallback()])


def _record(result: tune.Result, targets: int) -> TrialRecord:
    metrics = {key: value for key, value in (result.metrics or {}).items() if _is_ours(key, value)}
    config = result.config or {}
    trial_id = str((result.metrics or {}).get("trial_id") or Path(result.path).name)
    if result.error is not None:
        return TrialRecord(trial_id, choice_of(config), "failed", metrics, _reason(result.error))
    if "diverged" in (result.metrics or {}):
        return TrialRecord(trial_id, choice_of(config), "failed", metrics, f"diverged: {result.metrics['diverged']}")
    finished = metrics.get(RUNG, 0)
    if not finished:
        return TrialRecord(trial_id, choice_of(config), "failed", metrics, "ended without a report")
    return TrialRecord(trial_id, choice_of(config), "complete" if finished == targets else "stopped_early", metrics)


def _is_ours(key: str, value: object) -> bool:
    ours = key in (METRIC, RUNG, "test_score") or key.split("/")[0] in SCORE_PREFIXES
    return ours and isinstance(value, (int, float))


def _reason(error: BaseException) -> str:
    """The innermost cause in one line."""
    cause = getattr(error, "cause", None) or error
    return redacted(f"{type(cause).__name__}: {cause}".strip().splitlines()[-1])[:500]


# Tune hands the cloud keys of the driver's environment to its trials in a runtime environment, which Ray writes into its logs
# and shows as the actor's. No trial needs them: stages go through a folder that every node has mounted.
ENV_VARS_TO_PROPAGATE.difference_update({name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")})
# Ray warns that its own result files are missing (MLflow has the results) and Optuna that `group` may change.
logging.getLogger("ray.tune").setLevel(logging.ERROR)
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
