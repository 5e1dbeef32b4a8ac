"""Runs a job whose reports nobody reads (pre-training) as a Ray task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from trainables.launch.group import run_group
from trainables.launch.inline import run_inline
from trainables.launch.job import Job
from trainables.launch.retry import MAX_LOSSES

if TYPE_CHECKING:
    from trainables.stages.base import Progress


def _run(job: Job, name: str, progress: Progress) -> None:
    """Run inline or on a group, as the job's resources say."""
    if job.resources.inline:
        run_inline(job, report=_discard, progress=progress)
    else:
        run_group(job, name=name, progress=progress)


# One call a process: an idle worker that has pre-trained would keep its memory for the whole search.
run_task = ray.remote(max_retries=MAX_LOSSES, max_calls=1)(_run)
# For stages of a few megabytes: the process, with all that it has imported, goes on to the next one, and perhaps to a trial.
run_small_task = ray.remote(max_retries=MAX_LOSSES)(_run)


def _discard(metrics: dict[str, Any]) -> None:
    """A report that nobody reads."""
