"""A trial of a search: what Tune runs for a choice, and what it came to by its last report."""

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
from study.search.trial_store import METRIC, RUNG, Outcome
from study.spec import Size, Study
from study.spec.space import Choice
from trainables.launch.job import Job, never_started, run_group, run_inline
from trainables.stages.base import Progress
from trainables.stages.chain import SCORE_PREFIXES

ATTEMPTS = 2  # an error of the trial's own is tried once more and is its result then


def choice_of(config: dict[str, Any]) -> Choice:
    """The choice behind a Tune config."""
    return Choice(**{name: value for name, value in config.items() if name != "trial"})


def run_trial(config: dict[str, Any], *, study: Study, size: Size, output: str, progress: Progress) -> None:
    """A Tune trial: the chain of its choice, inline or on a Ray Train group.

    A lost process, or workers that never came, are Tune's to make good; those that a group loses are the launcher's. An error
    of the trial's own is tried once more here and then reported.
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
            if (problem := storage_problem(error, Path(output))) is not None:
                tune.report({"storage": problem})
                return
            if never_started(error) or (isinstance(error, RayError) and not isinstance(error, RayTaskError)):
                raise
            logging.getLogger(__name__).exception("%s %s, attempt %d", size.name, config["trial"], attempt)
            if attempt == ATTEMPTS:
                tune.report({"error": reason_of(causes_of(error)[-1])})


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


def reported(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of a Tune result what the trial reported."""

    def ours(key: str) -> bool:
        return key in (METRIC, RUNG, "test_score") or key.split("/")[0] in SCORE_PREFIXES

    return {key: value for key, value in result.items() if ours(key) and isinstance(value, (int, float))}
