"""What a run writes to MLflow about the study itself and about each size; trials and benchmarks write their own."""

from __future__ import annotations

import sys
from pathlib import Path

from study.run.pretraining import encoder_parameters, language_shares
from study.search.records import SearchResult, TrialOutcome
from study.spec import Size, Study
from study.spec.data_check import all_tasks, contamination_flags
from study.tracking.notes import NOTE_TAG, experiment_note
from study.tracking.tracker import Tracker
from study.tracking.views import ui_tags
from trainables.benchmark.probes.hardware import describe_hardware
from trainables.heads import HEADS
from trainables.store.versions import versions


def record_study(study: Study, tracker: Tracker) -> None:
    """The experiment's tags: command, versions, hardware, tasks and their data; and what MLflow's UI shows of it."""
    targets = [task.name for task in study.targets]
    tracker.describe({NOTE_TAG: experiment_note(study.name, targets), **ui_tags()})
    tracker.describe(
        {
            "study.command": " ".join(["python -m study", *sys.argv[1:]]),
            "study.versions": versions(),
            "study.hardware": describe_hardware(),
            "study.precision": study.tuning.precision,
            "study.seed": study.seed,
            "study.targets": targets,
            "study.intermediates": list(study.space.names),
            "study.selection": "English dev",
            "study.marks": contamination_flags(study),
            "study.languages": {task.name: list(task.languages) for task in study.targets},
            "study.protocols": {
                task.name: protocol for task in study.targets if (protocol := HEADS[task.head].protocol(task))
            },
            "study.data": {task.name: task.revision for task in all_tasks(study)},
        }
    )


def record_language_shares(study: Study, output: Path, *, tracker: Tracker) -> None:
    """The languages' shares of the pre-training text, as an experiment tag, once encoders are trained."""
    if shares := language_shares(study, output):
        tracker.describe({"study.pretraining": shares})


def record_size(
    study: Study, size: Size, *, result: SearchResult, output: Path, tracker: Tracker, failure: str | None = None
) -> None:
    """Record a size's counts and best trial. `failure` says why this run did not search the size."""
    run, count = tracker.size(size.name), encoder_parameters(study, size, output=output)
    if failure is not None or tracker.tag(run, "reason"):
        tracker.tags(run, {"reason": failure or ""})
    tracker.metrics(
        run,
        {
            "params_m": count.total / 1e6,
            "params_body_m": count.body / 1e6,
            "trials": len(result.trials),
            "pruned": result.count(TrialOutcome.STOPPED_EARLY),
            "failed": result.failed_count,
        },
    )
    if result.best is not None:
        tracker.tags(run, {"best_trial": result.best.trial_id})
        tracker.mark_best(size.name, result.best.trial_id)
    tracker.finish(run)
