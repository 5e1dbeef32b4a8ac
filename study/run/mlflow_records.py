"""What a run writes to MLflow about the study itself and about each size; trials and benchmarks write their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from study.run.pretraining import encoder_parameters, language_shares
from study.search.records import SearchResult, TrialOutcome
from study.spec import PublishedEncoder, Size, Study
from study.spec.data_check import all_tasks, arm_records, contamination_flags, seen_flags, seen_flags_of_arms
from study.tracking.notes import NOTE_TAG, experiment_note
from study.tracking.tracker import Tracker
from study.tracking.views import ui_tags
from trainables.benchmark.probes.hardware import describe_hardware
from trainables.heads import HEADS
from trainables.models.catalogue import description
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
            "study.untrained": [task.name for task in study.targets if not task.trained],
            "study.intermediates": list(study.space.names),
            "study.arms": arm_records(study),
            "study.selection": "English dev",
            "study.marks": contamination_flags(study),
            "study.languages": {task.name: list(task.languages) for task in study.targets},
            "study.protocols": _protocols(study),
            "study.data": {task.name: task.revision for task in all_tasks(study)},
        }
    )


def _protocols(study: Study) -> dict[str, str]:
    """By target how vectors are read and searched; where encoders read texts differently, for each of them."""
    protocols: dict[str, str] = {}
    for task in study.targets:
        names: dict[str, list[str]] = {}
        for size in study.sizes:
            for number, stage in enumerate(study.encoder_stages(size)):
                if protocol := HEADS[task.head].protocol(task, stage.tokenizer.prefixes):
                    names.setdefault(protocol, []).append(f"{size.name} as {stage.short}" if number else size.name)
        if len(names) == 1:
            protocols[task.name] = next(iter(names))
        elif names:
            protocols[task.name] = "; ".join(f"{', '.join(sizes)}: {protocol}" for protocol, sizes in names.items())
    return protocols


def record_language_shares(study: Study, output: Path, *, tracker: Tracker) -> None:
    """The languages' shares of the pre-training text, as an experiment tag, once encoders are trained."""
    if shares := language_shares(study, output):
        tracker.describe({"study.pretraining": shares})


def record_size(
    study: Study, size: Size, *, result: SearchResult, output: Path, tracker: Tracker, failure: str | None = None
) -> None:
    """Record a size's encoder, counts and best trial. `failure` says why this run did not search the size."""
    run, count = tracker.size(size.name), encoder_parameters(study, size, output=output)
    if failure is not None or tracker.tag(run, "reason"):
        tracker.tags(run, {"reason": failure or ""})
    if result.ended is not None:
        tracker.tags(run, {"search_ended": result.ended})
    if isinstance(size.encoder, PublishedEncoder):
        seen = seen_flags(study).get(size.name, {})
        by_arm = seen_flags_of_arms(study, size)
        tags = {"encoder": description(size.encoder), "seen": json.dumps(seen)}
        tracker.tags(run, tags | ({"seen_by_arm": json.dumps(by_arm)} if by_arm else {}))
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
