"""What holds after any faults. Each invariant yields a sentence for each violation."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator

from tests.support.chaos.evidence import Evidence

Invariant = Callable[[Evidence, Evidence], Iterator[str]]
# How a run of the command may end: as documented (docs/commands.md), or by a signal, which the monkey or Ray sends.
DOCUMENTED = {0, 1, 2, 128 + signal.SIGTERM, 128 + signal.SIGINT}


def violations(evidence: Evidence, undisturbed: Evidence) -> list[str]:
    """What is wrong with a round, compared with the undisturbed study."""
    return [
        f"{invariant.__name__.replace('_', ' ')}: {sentence}"
        for invariant in INVARIANTS
        for sentence in invariant(evidence, undisturbed)
    ]


def the_study_finishes(evidence: Evidence, undisturbed: Evidence) -> Iterator[str]:
    """The last run of the command ends with 0, no run hangs, and each ends with a documented code or by a signal."""
    for number, run in enumerate(evidence.commands, 1):
        if run.hung:
            yield f"run {number} made no end in {run.seconds:.0f} s"
        elif run.code > 0 and run.code not in DOCUMENTED:
            yield f"run {number} ended with exit code {run.code}"
    if not evidence.commands or evidence.commands[-1].code != 0:
        yield "no run of the command finished it"


def nothing_is_left_running(evidence: Evidence, undisturbed: Evidence) -> Iterator[str]:
    for number, run in enumerate(evidence.commands, 1):
        if run.left:
            yield f"run {number} left {', '.join(run.left)}"


def no_finished_trial_runs_again(evidence: Evidence, undisturbed: Evidence) -> Iterator[str]:
    for number, run in enumerate(evidence.commands, 1):
        if again := run.finished_before & run.reported:
            yield f"run {number} ran {', '.join(sorted(again))} again"


def no_stage_is_trained_twice(evidence: Evidence, undisturbed: Evidence) -> Iterator[str]:
    """Except where its files were cut."""
    for stage, commits in sorted(evidence.commits.items()):
        if len(commits) > 1 + evidence.cut.get(stage, 0):
            yield f"{stage} was committed {len(commits)} times"


def the_trials_are_those_of_the_budget(evidence: Evidence, undisturbed: Evidence) -> Iterator[str]:
    """As many as the budget, all complete, no choice twice."""
    for size, budget in evidence.budget.items():
        trials = [trial for trial in evidence.trials if trial.size == size]
        if len(trials) != budget:
            yield f"size {size} has {len(trials)} finished trials, {budget} expected"
        for trial in trials:
            if trial.outcome != "complete":
                yield f"{size} {trial.name} is {trial.outcome}"
        for choice, count in Counter(trial.choice for trial in trials).items():
            if count > 1:
                yield f"size {size} has {count} trials of {choice}"


def trial_store_outbox_and_mlflow_agree(evidence: Evidence, undisturbed: Evidence) -> Iterator[str]:
    """The same trials with the same outcomes in all three, with the same scores in MLflow, and every size."""
    stored = {trial.key: trial.outcome for trial in evidence.trials}
    for place, runs in (("the outbox", evidence.outbox), ("MLflow", evidence.mlflow)):
        tracked = {run.key: run.outcome for run in runs if run.kind == "trial"}
        for key in sorted(stored.keys() | tracked.keys()):
            if stored.get(key) != tracked.get(key):
                yield f"{key} is {stored.get(key)} in the trial store and {tracked.get(key)} in {place}"
        sizes = {run.key for run in runs if run.kind == "size"}
        if sizes != {f"size:{size}" for size in evidence.budget}:
            yield f"{place} has the sizes {', '.join(sorted(sizes)) or 'none'}"
    scores = {run.key: run.scores for run in evidence.mlflow}
    for trial in evidence.trials:
        wrong = [name for name, value in trial.scores.items() if scores.get(trial.key, {}).get(name) != value]
        if wrong:
            yield f"MLflow has other scores of {trial.key}: {', '.join(wrong[:3])}"


def no_run_is_there_twice(evidence: Evidence, undisturbed: Evidence) -> Iterator[str]:
    for key, count in Counter(run.key for run in evidence.mlflow).items():
        if count > 1:
            yield f"MLflow has {count} runs of {key}"


def scores_are_those_of_the_undisturbed_study(evidence: Evidence, undisturbed: Evidence) -> Iterator[str]:
    """To the last bit."""
    for choice, expected in undisturbed.scores.items():
        scores = evidence.scores.get(choice, {})
        for name in sorted(expected.keys() | scores.keys()):
            if scores.get(name) != expected.get(name):
                yield f"{choice}: {name} is {scores.get(name)!r}, undisturbed {expected.get(name)!r}"


INVARIANTS: tuple[Invariant, ...] = (
    the_study_finishes,
    nothing_is_left_running,
    no_finished_trial_runs_again,
    no_stage_is_trained_twice,
    the_trials_are_those_of_the_budget,
    trial_store_outbox_and_mlflow_agree,
    no_run_is_there_twice,
    scores_are_those_of_the_undisturbed_study,
)
