"""What happens to trials, as it happens: a line on the screen and a run in MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune import Callback
from rich.table import Table

from study.console import Screen
from study.search.trial import choice_of
from study.search.trial_store import METRIC, RUNG, SearchResult, TrialRecord, repeated_id
from study.spec import Choice, Size, Study
from study.tracking.examples import write_examples
from study.tracking.tracker import Tracking
from trainables.stages.chain import SCORE_PREFIXES
from trainables.stages.evaluate import Evaluate
from trainables.tasks.suites import SUITES

# MLflow names of what trials report under Tune's.
_RENAMED = {"dev_score": "dev/score", "test_score": "test/score"}
_STATUS = {"complete": "FINISHED", "stopped_early": "KILLED", "failed": "FAILED"}


@dataclass
class TrialLog(Callback):  # type: ignore[misc]
    """A Tune callback: an exception in it would end the sweep, and writing to MLflow raises none (see `Tracking`)."""

    study: Study
    size: Size
    tracking: Tracking
    screen: Screen
    clock: Callable[[], float] = time.perf_counter
    _began: float | None = (
        None  # the first trial of this run: until there is room for it, waiting says nothing about trials
    )
    _ended: int = 0  # since this run of the command counts
    _finished: int = 0  # in earlier ones
    _expected: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, which nobody reads again

    def expect(self, trials: int, *, finished: int = 0) -> None:
        """From now on count so many trials, of which some are finished already; without it the search's budget, and none."""
        self._began, self._ended, self._finished, self._expected = None, 0, finished, trials

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._began = self.clock() if self._began is None else self._began

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if RUNG not in result:
            return
        choice, finished = choice_of(trial.config), int(result[RUNG])
        score = f"dev {result[METRIC]:.1f}, " if METRIC in result else ""
        self.screen.say(
            f"  {self.size.name} {describe(choice)}: {finished}/{len(self.study.targets)} targets, "
            f"{score}test {result['test_score']:.1f}"
        )
        self.tracking.metrics(self._run(trial.config["trial"], choice), tracked(result), step=finished)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        finished = trial.last_result.get(RUNG) == len(self.study.targets)
        ends = {"diverged": "diverged", "error": "failed", "storage": "put off, as nothing can be written"}
        ended = next((what for key, what in ends.items() if key in trial.last_result), None)
        outcome = ended or ("done" if finished else "stopped early")
        self._say_end(trial, outcome)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._say_end(trial, "failed")

    def settle(self, result: SearchResult) -> None:
        """Write what the finished search says and was not written on the way."""
        for trial in (*result.trials, *result.repeats):
            self.ended(trial)

    def ended(self, trial: TrialRecord) -> None:
        """Write how a trial or repeat ended, unless that is written: last metrics, scores by example, outcome, reason.

        It raises nothing, as that would end the sweep: a trial that is left without its outcome is written by `settle`, or by
        the next run of the command.
        """
        try:
            self._write_end(trial)
        except Exception as error:
            self.screen.say(
                f"  {self.size.name} {trial.trial_id}: its end could not be written, run the command again: "
                f"{type(error).__name__}: {error}"
            )

    def _write_end(self, trial: TrialRecord) -> None:
        run = self._run(trial.trial_id, trial.choice)
        if trial.retried:
            self.tracking.tags(run, {"retried": "true"})  # what stands for it is another run
        if self.tracking.tag(run, "outcome") == trial.outcome:
            return
        self.tracking.metrics(run, tracked(trial.metrics), step=int(trial.metrics.get(RUNG, 0)))
        if trial.outcome == "complete":
            self.attach_examples(run, self.study.chain(self.size, trial.choice))
        tags = {"outcome": trial.outcome, **({"reason": trial.reason} if trial.reason else {})}
        self.tracking.tags(run, tags)
        self.tracking.finish(run, _STATUS[trial.outcome])

    def attach_examples(self, run: str, chain: Sequence[Evaluate]) -> None:
        """Attach the chain's scores by example to a finished trial's or repeat's run."""
        path = write_examples(chain, self.tracking.output)
        if path is None:
            self.screen.say(f"  {run}: scores by example are not to be had, an evaluation is gone from the store")
        else:
            self.tracking.artifact(run, path)

    def _run(self, trial_id: str, choice: Choice) -> str:
        seed = self.study.seed if choice.seed is None else choice.seed
        params = {
            "intermediate": choice.intermediate,
            "lr_intermediate": choice.lr_intermediate,
            "lr_target": choice.lr_target,
            "epochs": choice.epochs,
            "seed": seed,
        }
        if (of := repeated_id(trial_id)) is not None:
            return self.tracking.repeat(self.size.name, trial_id, of=of, params=params)
        default = self.study.space.is_default(choice)
        return self.tracking.trial(self.size.name, trial_id, default_cell=default, params=params)

    def _say_end(self, trial: Any, outcome: str) -> None:
        self._ended += 1
        budget = self.study.budget(self.size) if self._expected is None else self._expected
        number = self._finished + self._ended
        left = budget - number
        eta = ""
        if left > 0 and self._began is not None:
            eta = f"; about {(self.clock() - self._began) / self._ended * left:.0f} s for {left} more"
        self.screen.say(f"{self.size.name} trial {number}/{budget} {outcome}: {describe(choice_of(trial.config))}{eta}")


def tracked(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's reported metrics under their MLflow names; Tune's own bookkeeping left out."""
    ours = {name: value for name, value in metrics.items() if "/" in name and name.split("/")[0] in SCORE_PREFIXES}
    renamed = {new: metrics[old] for old, new in _RENAMED.items() if old in metrics}
    return {**ours, **renamed, RUNG: metrics.get(RUNG, 0)}


def describe(choice: Choice) -> str:
    """A choice in a few words."""
    through = "" if choice.lr_intermediate is None else f" at {choice.lr_intermediate:g}"
    return f"{choice.intermediate}{through}, target at {choice.lr_target:g}"


def trial_table(result: SearchResult) -> Table:
    """A size's trials, best first."""
    table = Table(title=f"{result.size}: trials", title_justify="left")
    for column in ("intermediate", "lr intermediate", "lr target", "outcome", "targets", "dev", "test"):
        table.add_column(column, justify="left" if column in ("intermediate", "outcome") else "right")

    def rank(trial: TrialRecord) -> tuple[bool, float]:
        return trial.outcome != "complete", -(trial.dev_score or 0.0)

    for trial in sorted(result.trials, key=rank):
        choice, metrics = trial.choice, trial.metrics
        table.add_row(
            choice.intermediate,
            "-" if choice.lr_intermediate is None else f"{choice.lr_intermediate:g}",
            f"{choice.lr_target:g}",
            trial.outcome,
            str(metrics.get(RUNG, 0)),
            f"{metrics[METRIC]:.1f}" if METRIC in metrics else "-",
            f"{metrics['test_score']:.1f}" if "test_score" in metrics else "-",
        )
    return table


def target_table(study: Study, size: Size, trial: TrialRecord) -> Table:
    """A trial's targets: English dev, mean over test languages with and without English, and what guessing gives."""
    title = f"{size.name}: {describe(trial.choice)}"
    table = Table(title=title, title_justify="left")
    for column in ("target", "metric", "languages", "dev", "test", "test without en", "chance"):
        table.add_column(column, justify="left" if column in ("target", "metric") else "right")
    for task in study.targets:
        columns = ("dev", "test", "test_without_english", "chance")
        scores = [trial.metrics.get(f"{column}/{task.name}") for column in columns]
        shown = ["-" if score is None else f"{score:.1f}" for score in scores]
        table.add_row(task.name, task.metric, str(len(task.languages)), *shown)
    for name in SUITES:
        if f"suite/{name}" in trial.metrics:
            both = [f"{trial.metrics[f'{prefix}/{name}']:.1f}" for prefix in ("suite", "suite_without_english")]
            table.add_row(name, "official average", "", "", *both, "")
    return table
