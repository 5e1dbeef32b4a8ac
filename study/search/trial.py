"""One trial: what Ray Tune runs for a choice, and how its outcome follows from its last report.

How a NaN or infinite loss becomes an outcome:

1. `trainables.training.loop` raises `Diverged`, on every worker at the same step.
2. `trainables.stages.base.ensure` records it in the stage store, so a later attempt at the stage raises it without training.
3. `trainables.launch.job.Job.run` reports it under the key `DIVERGED` and returns: launchers and Tune must not retry it.
4. `outcome_of` in this file makes it `TrialOutcome.DIVERGED`, with the reason "diverged: ...".
5. `study.search.trial_store` stores it as FAIL in Optuna, and `study.search.callback` tags it "failed" in MLflow. Both store
   the reason, which tells it from other failures. `TrialRecord.retriable` is False, so `--retry-failed` skips it.

A NaN dev score after training that did not diverge is `TrialOutcome.FAILED`, which `--retry-failed` runs again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.integration.ray_train import TuneReportCallback

from study.errors import causes_of, reason_of, storage_problem
from study.search.records import DEV_SCORE, DIVERGED_REASON, TARGETS_FINISHED, TrialOutcome
from study.spec import Size, Study
from study.spec.space import Choice
from trainables.launch.group import run_group
from trainables.launch.inline import run_inline
from trainables.launch.job import DIVERGED, Job
from trainables.launch.retry import never_started
from trainables.stages.base import Progress
from trainables.stages.chain import SCORE_PREFIXES

ATTEMPTS = 2  # before a trial's own error becomes its result

# Keys of the last report of a trial that ends without a score. The third is `DIVERGED`, from the launcher.
ERROR = "error"  # the trial's own error
STORAGE = "storage"  # why the output folder cannot be written; the trial stays unfinished


def choice_of(config: dict[str, Any]) -> Choice:
    """The choice in a Tune config."""
    return Choice(**{name: value for name, value in config.items() if name != "trial"})


def job_name(size: Size, trial: str) -> str:
    """The name of a trial's job, by which an interrupted group and notes of what is trained are found."""
    return f"{size.name}-{trial}"


def run_trial(config: dict[str, Any], *, study: Study, size: Size, output: str, progress: Progress) -> None:
    """Run a Tune trial: the chain of its choice, inline or on a Ray Train group.

    Tune restarts a trial whose process is lost or whose workers never start; the launcher restarts the workers of a group. An
    error of the trial's own is retried once here, then reported.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            name = job_name(size, config["trial"])
            chain = study.chain(size, choice_of(config))
            job = Job(output, size.resources, chain=chain, size=size.name, name=name)
            if size.resources.inline:
                run_inline(job, report=tune.report, progress=progress)
            else:
                run_group(job, name=name, progress=progress, callbacks=[TuneReportCallback()])
            return
        except Exception as error:
            if (problem := storage_problem(error, Path(output))) is not None:
                tune.report({STORAGE: problem})
                return
            if never_started(error) or (isinstance(error, RayError) and not isinstance(error, RayTaskError)):
                raise
            logging.getLogger(__name__).exception("%s %s, attempt %d", size.name, config["trial"], attempt)
            if attempt == ATTEMPTS:
                tune.report({ERROR: reason_of(causes_of(error)[-1])})


def outcome_of(report: Mapping[str, Any], targets: int, *, error: str | None = None) -> tuple[TrialOutcome, str | None]:
    """A trial's outcome by its last report, and the reason if it failed.

    `targets` is the number of targets of the study. `error` is why Tune gave the trial up, if it did.
    """
    finished, score = report.get(TARGETS_FINISHED, 0), report.get(DEV_SCORE, math.nan)
    if error is not None:
        return TrialOutcome.FAILED, error
    if DIVERGED in report:
        return TrialOutcome.DIVERGED, f"{DIVERGED_REASON}{report[DIVERGED]}"
    if ERROR in report:
        return TrialOutcome.FAILED, str(report[ERROR])
    if not finished:
        return TrialOutcome.FAILED, "ended without a report"
    if not math.isfinite(score):
        return TrialOutcome.FAILED, f"its dev score is {score}"
    return (TrialOutcome.COMPLETE if finished == targets else TrialOutcome.STOPPED_EARLY), None


def reported_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """The trial's own metrics in a Tune result, without Tune's bookkeeping."""

    def is_own(key: str) -> bool:
        return key in (DEV_SCORE, TARGETS_FINISHED, "test_score") or key.split("/")[0] in SCORE_PREFIXES

    return {key: value for key, value in result.items() if is_own(key) and isinstance(value, (int, float))}
