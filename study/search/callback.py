"""What happens to trials while a search runs: a line on the console and a run in MLflow for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray.tune import Callback

from study.console import Console
from study.search.lost_actors import LostActor, latest_error
from study.search.records import DEV_SCORE, TARGETS_FINISHED, SearchResult, TrialOutcome, TrialRecord, repeated_id
from study.search.tables import describe_choice, describe_scores
from study.search.trial import STORAGE, choice_of, job_name, outcome_of
from study.spec import Size, Study
from study.spec.space import Choice
from study.tracking.examples import write_examples
from study.tracking.seconds import training_seconds
from study.tracking.tracker import Tracker
from trainables.stages.chain import SCORE_PREFIXES
from trainables.stages.evaluate import Evaluate
from trainables.store.opening import open_store
from trainables.training.attempts import halve_after_kill

EVALUATIONS = "evaluations"  # tag of a run: stages by target, as JSON
# MLflow's names of metrics that trials report under others.
_RENAMED = {DEV_SCORE: "dev/score", "test_score": "test/score"}
_RUN_STATUS = {
    TrialOutcome.COMPLETE: "FINISHED",
    TrialOutcome.STOPPED_EARLY: "KILLED",
    TrialOutcome.FAILED: "FAILED",
    TrialOutcome.DIVERGED: "FAILED",
}
_CONSOLE_WORDS = {
    TrialOutcome.COMPLETE: "done",
    TrialOutcome.STOPPED_EARLY: "stopped early",
    TrialOutcome.FAILED: "failed",
    TrialOutcome.DIVERGED: "diverged",
}


class TrialObserver(Protocol):
    """Is told when trials and repeats of a size start and end, and tells how long the study still takes. Raises nothing."""

    def trial_started(self, size: str, choice: Choice) -> None: ...

    def trial_ended(self, size: str, choice: Choice) -> None: ...

    def repeating(self, size: str, repeats: Sequence[Choice]) -> None:
        """The size's search is over, and these are its repeats."""

    def searched(self, size: str) -> None:
        """The size's search and repeats are over."""

    def time_left(self) -> str:
        """In words; empty where nothing tells it."""


@dataclass
class TrialLog(Callback):  # type: ignore[misc]
    """Tune's callback of one size. An exception in it would end the sweep; writing through a `Tracker` raises none."""

    study: Study
    size: Size
    tracker: Tracker
    console: Console
    observer: TrialObserver | None = None
    _ended: int = 0  # trials, in this run of the command
    _ended_before: int = 0  # in earlier runs
    _expected: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, but nothing reads it back

    def expect(self, trials: int, *, finished: int = 0) -> None:
        """Count up to so many trials from now on, of which some are finished. Until then, the search's budget is expected."""
        self._ended, self._ended_before, self._expected = 0, finished, trials

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self.observer is not None:
            self.observer.trial_started(self.size.name, choice_of(trial.config))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if TARGETS_FINISHED not in result:
            return
        choice, finished = choice_of(trial.config), int(result[TARGETS_FINISHED])
        name = f"{self.size.name} {trial.config['trial']} ({choice.intermediate})"
        self.console.say(f"  {name}: {describe_scores(result, self.study.targets[finished - 1].name)}")
        self.tracker.metrics(self._run(trial.config["trial"], choice), mlflow_metrics(result), step=finished)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if STORAGE in trial.last_result:
            self._say_end(trial, "postponed: the output folder cannot be written")
            return
        outcome, _ = outcome_of(trial.last_result, len(self.study.targets))
        self._say_end(trial, _CONSOLE_WORDS[outcome])

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        error = latest_error(trial)
        reason = "its process was lost" if error is None else str(error).strip().splitlines()[0]
        if isinstance(error, LostActor) and error.for_memory:
            reason += self._after_kill(trial)
        self.console.say(f"  {self.size.name} {trial.config['trial']} starts again: {reason}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._say_end(trial, _CONSOLE_WORDS[TrialOutcome.FAILED])

    def _after_kill(self, trial: Any) -> str:
        """Halve the micro-batch that a trial was killed with for memory, and tag its run; returns what changed, in words.

        Tune calls this before the trial's next process starts, which reads the limit.
        """
        name = trial.config["trial"]
        try:
            smaller = halve_after_kill(self.tracker.output, self.size.resources, job_name(self.size, name))
        except OSError as error:
            return f"; its micro-batch stays, as the output folder cannot be written ({error.strerror})"
        change = "" if smaller is None else f"; {smaller}"
        self.tracker.tags(self._run(name, choice_of(trial.config)), {"killed_for_memory": f"yes{change}"})
        return change

    def log_missing(self, result: SearchResult) -> None:
        """Write the ends of a search's trials and repeats that MLflow does not have yet."""
        for trial in (*result.trials, *result.repeats):
            self.log_end(trial)

    def log_end(self, trial: TrialRecord) -> None:
        """Write how a trial or repeat ended, unless it is written: last metrics, scores by example, outcome, reason.

        Raises nothing, since that would end the sweep. An end that cannot be written now is written by `log_missing`, or by the
        next run of the command.
        """
        try:
            self._write_end(trial)
        except Exception as error:
            self.console.say(
                f"  {self.size.name} {trial.trial_id}: its end could not be written ({type(error).__name__}: {error}); "
                "run the command again"
            )

    def _write_end(self, trial: TrialRecord) -> None:
        run = self._run(trial.trial_id, trial.choice)
        if trial.retried:
            self.tracker.tags(run, {"retried": "true"})  # the retry is another run
        if trial.in_place_of:
            self.tracker.tags(run, {"in_place_of": ", ".join(trial.in_place_of)})
        self.tracker.tags(run, self._evaluations(trial))  # earlier versions recorded none
        if self.tracker.tag(run, "outcome") == trial.outcome.tag:
            return
        self.tracker.metrics(run, mlflow_metrics(trial.metrics), step=int(trial.metrics.get(TARGETS_FINISHED, 0)))
        if trial.outcome is TrialOutcome.COMPLETE:
            chain, base = self.study.chain(self.size, trial.choice), self.study.base(self.size, trial.choice)
            self.attach_examples(run, chain)
            if seconds := training_seconds(chain, base, self.tracker.output):
                self.tracker.metrics(run, seconds)
        trained = self.study.space.arm(trial.choice.intermediate).trained_languages
        languages = "unknown" if trained is None else ", ".join(trained)
        tags = {"outcome": trial.outcome.tag, "reason": trial.reason, "training_languages": languages}
        self.tracker.tags(run, {name: value for name, value in tags.items() if value})
        self.tracker.finish(run, _RUN_STATUS[trial.outcome])

    def _evaluations(self, trial: TrialRecord) -> dict[str, str]:
        """A tag with the stage that scored each finished target, where the predictions behind a score are."""
        finished = int(trial.metrics.get(TARGETS_FINISHED, 0))
        if not finished:
            return {}
        store = open_store(self.tracker.output)
        stages = {
            evaluate.task.name: store.folder(evaluate).name
            for evaluate in self.study.chain(self.size, trial.choice)[:finished]
        }
        return {EVALUATIONS: json.dumps(stages)}

    def attach_examples(self, run: str, chain: Sequence[Evaluate]) -> None:
        """Attach the chain's scores by example to the run of a complete trial or repeat."""
        path = write_examples(chain, self.tracker.output)
        if path is None:
            self.console.say(f"  {run}: scores by example are unavailable, the stage store lacks an evaluation")
        else:
            self.tracker.artifact(run, path)

    def _run(self, trial_id: str, choice: Choice) -> str:
        params = {
            "intermediate": choice.intermediate,
            "lr_intermediate": choice.lr_intermediate,
            "lr_target": choice.lr_target,
            "rate_factor": self.size.rate_factor,
            "epochs": choice.epochs,
            "seed": self.study.seed if choice.seed is None else choice.seed,
        }
        if (repeated := repeated_id(trial_id)) is not None:
            return self.tracker.repeat(self.size.name, trial_id, of=repeated, params=params)
        default = self.study.space_of(self.size).is_default(choice)
        return self.tracker.trial(self.size.name, trial_id, default_cell=default, params=params)

    def _say_end(self, trial: Any, ending: str) -> None:
        self._ended += 1
        budget = self.study.budget(self.size) if self._expected is None else self._expected
        number = self._ended_before + self._ended
        choice, time_left = choice_of(trial.config), ""
        if self.observer is not None:
            self.observer.trial_ended(self.size.name, choice)
            time_left = self.observer.time_left()
        self.console.say(f"{self.size.name} trial {number}/{budget} {ending}: {describe_choice(choice, self.size)}")
        if time_left:
            self.console.say(f"  study: {time_left}")


def mlflow_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's reported metrics by their names in MLflow, without Tune's bookkeeping."""
    scores = {name: value for name, value in metrics.items() if "/" in name and name.split("/")[0] in SCORE_PREFIXES}
    renamed = {new: metrics[old] for old, new in _RENAMED.items() if old in metrics}
    return {**scores, **renamed, TARGETS_FINISHED: metrics.get(TARGETS_FINISHED, 0)}
