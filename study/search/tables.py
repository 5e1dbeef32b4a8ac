"""What the console shows of a size when its search has ended: its trials, and the best one's targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from study.search.records import DEV_SCORE, TARGETS_FINISHED, SearchResult, TrialOutcome, TrialRecord
from study.spec import Size, Study
from study.spec.space import Choice
from trainables.tasks.suites import SUITES


def describe_choice(choice: Choice, size: Size) -> str:
    """A choice in a few words, with the learning rates that the size trains at."""
    through = "" if choice.lr_intermediate is None else f" at {choice.lr_intermediate * size.rate_factor:g}"
    return f"{choice.intermediate}{through}, target at {choice.lr_target * size.rate_factor:g}"


def describe_scores(metrics: Mapping[str, Any], target: str) -> str:
    """The score of the target that was finished last, and the mean that the search maximises."""
    if f"dev/{target}" in metrics:
        own = f"dev {metrics[f'dev/{target}']:.1f}"
    elif f"test/{target}" in metrics:
        own = f"test {metrics[f'test/{target}']:.1f}, without dev"
    else:
        own = "not scored"
    count = sum(name.startswith("dev/") for name in metrics)
    mean = f", mean of {count} target{'s' if count > 1 else ''} {metrics[DEV_SCORE]:.1f}" if count else ""
    return f"{target} {own}{mean}"


def _remark(metrics: Mapping[str, Any], target: str) -> str:
    """Why a target's score says little; "" if nothing is known against it."""
    score = metrics.get(f"test_without_english/{target}", metrics.get(f"test/{target}"))
    chance = metrics.get(f"chance/{target}")
    remarks = ["no better than chance"] if None not in (score, chance) and score <= chance else []
    if constant := metrics.get(f"constant/{target}"):
        remarks.append(f"one answer to everything in {constant:.0f} languages")
    return "; ".join(remarks)


def trial_table(size: Size, result: SearchResult) -> Table:
    """A size's trials, best first, with the learning rates that the size trains at.

    Where the terminal is narrow, names break over lines; numbers never do.
    """
    table = Table(title=f"{size.name}: trials", title_justify="left")
    table.add_column("intermediate", overflow="fold")
    table.add_column("outcome")
    for column in ("rate", "target rate", "targets", "dev", "test"):
        table.add_column(column, justify="right", min_width=5)

    def rank(trial: TrialRecord) -> tuple[bool, float]:
        return trial.outcome is not TrialOutcome.COMPLETE, -(trial.dev_score or 0.0)

    for trial in sorted(result.trials, key=rank):
        choice, metrics = trial.choice, trial.metrics
        table.add_row(
            choice.intermediate,
            trial.outcome.replace("_", " "),
            "-" if choice.lr_intermediate is None else f"{choice.lr_intermediate * size.rate_factor:g}",
            f"{choice.lr_target * size.rate_factor:g}",
            str(metrics.get(TARGETS_FINISHED, 0)),
            f"{metrics[DEV_SCORE]:.1f}" if DEV_SCORE in metrics else "-",
            f"{metrics['test_score']:.1f}" if "test_score" in metrics else "-",
        )
    return table


def target_table(study: Study, size: Size, *, trial: TrialRecord) -> Table:
    """A trial's targets: English dev score, mean test score over languages with and without English, and chance.

    What is no better than chance, or one answer to every example, is said.
    """
    table = Table(title=f"{size.name}: {describe_choice(trial.choice, size)}", title_justify="left")
    for column in ("target", "metric", "languages", "dev", "test", "test without en", "chance"):
        table.add_column(
            column, justify="left" if column in ("target", "metric") else "right", no_wrap=column == "target"
        )
    remarks = {task.name: _remark(trial.metrics, task.name) for task in study.targets}
    table.caption = "\n".join(f"{name}: {remark}" for name, remark in remarks.items() if remark) or None
    table.caption_justify = "left"
    for task in study.targets:
        columns = ("dev", "test", "test_without_english", "chance")
        scores = [trial.metrics.get(f"{column}/{task.name}") for column in columns]
        cells = ["-" if score is None else f"{score:.1f}" for score in scores]
        table.add_row(task.name, task.metric, str(len(task.languages)), *cells)
    for name in SUITES:
        if f"suite/{name}" in trial.metrics:
            averages = [f"{trial.metrics[f'{prefix}/{name}']:.1f}" for prefix in ("suite", "suite_without_english")]
            table.add_row(name, "official average", "", "", *averages, "")
    return table
