"""The ledger of a search: Optuna's own study, in a journal in the output folder. Every run of the command goes on from it.

A trial is written when it begins and when it ends, so that after any interruption the journal says which are finished, which
are to be gone on with, and what is left of the budget; nothing is ever restored from Ray Tune. `optuna-dashboard` and
`optuna.load_study` open the same file, once the command has ended or beside it.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.spec.space import NONE, Choice, LogUniform, Rates, Space

METRIC, RUNG = "dev_score", "targets_finished"
JOURNAL = "optuna.journal"

Outcome = Literal["complete", "stopped_early", "failed"]
_STATES: dict[Outcome, TrialState] = {
    "complete": TrialState.COMPLETE,
    "stopped_early": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_OUTCOMES = {state: outcome for outcome, state in _STATES.items()}


@dataclass(frozen=True)
class TrialRecord:
    """What became of a trial; scores in percent.

    `rungs` holds its mean English dev score after so many targets; `retried` says that a later trial tried the same again.
    """

    trial_id: str
    choice: Choice
    outcome: Outcome
    metrics: Mapping[str, Any]
    reason: str | None = None
    rungs: Mapping[int, float] = field(default_factory=dict)
    retried: bool = False

    @property
    def dev_score(self) -> float | None:
        return self.metrics.get(METRIC) if self.outcome == "complete" else None

    @property
    def diverged(self) -> bool:
        """It has no result because training it diverged, which it would again."""
        return self.outcome == "failed" and (self.reason or "").startswith("diverged")


def repeat_id(of: TrialRecord, seed: int) -> str:
    """The name of a trial's repeat with a seed."""
    return f"{of.trial_id}-s{seed}"


def repeated_id(trial_id: str) -> str | None:
    """The name of the trial that this one repeats; None if it repeats none."""
    of, mark, _ = trial_id.partition("-s")
    return of if mark else None


@dataclass(frozen=True)
class SearchResult:
    """A search of a size and the repeats of its winners."""

    size: str
    trials: tuple[TrialRecord, ...]
    repeats: tuple[TrialRecord, ...] = ()

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the highest English dev score; the earliest of equals."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[TrialRecord]:
        """The complete trials by English dev score, the best first; the earlier of equals first."""
        complete = [trial for trial in self.trials if trial.dev_score is not None]
        return sorted(complete, key=lambda trial: -(trial.dev_score or 0.0))

    def count(self, outcome: Outcome) -> int:
        return sum(trial.outcome == outcome for trial in self.trials)

    @property
    def failures(self) -> list[TrialRecord]:
        """Failed trials and repeats that no later one made good."""
        return [one for one in (*self.trials, *self.repeats) if one.outcome == "failed" and not one.retried]


class LedgerBroken(RuntimeError):
    """The journal of a search cannot be read or written, or lacks trials that it held."""


class LedgerFile(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal, where a write that fails leaves no half line, and no search writes after it.

    All searches of a study share the file: a line written behind a torn one would be part of it, and the file be lost.
    """

    _failed: OSError | None = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._failed is not None:
            raise self._failed
        whole = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except OSError as error:
            self._failed = error
            with contextlib.suppress(
                OSError
            ):  # where not even that can be done, the next run of the command cuts it off
                os.truncate(self._file_path, whole)
            raise


def open_journal(output: Path) -> JournalStorage:
    """The journal of an output folder, made where there is none. The caller holds the folder's lock.

    A last line that a killed process or a full disk cut short is taken off: the trial that it told of goes on where it was.

    Raises:
        LedgerBroken: it cannot be read; what it says of the finished trials would be lost in silence.
    """
    path = output / JOURNAL
    try:
        _drop_torn_line(path)
        Path(f"{path}.lock").unlink(missing_ok=True)  # of a process that was killed: nobody else writes here
        return JournalStorage(LedgerFile(str(path), lock_obj=JournalFileOpenLock(str(path))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerBroken(
            f"{path} cannot be read ({type(error).__name__}: {error}). It says which trials are finished. {_ways_out(output)}"
        ) from error


def check_whole(storage: JournalStorage, output: Path, known: Mapping[str, Set[str]]) -> None:
    """Hold the journal against what is known to have been in it: names of trials and repeats, by size. Nothing is written.

    Raises:
        LedgerBroken: it lacks some, so it is lost or cut short. Searched again under their names, trials of before would keep
            their parameters and scores in MLflow.
    """
    searches = {
        search.study_name: storage.get_study_id_from_name(search.study_name) for search in storage.get_all_studies()
    }
    missing = []
    for size, names in sorted(known.items()):
        of_size = [searches[name] for name in (search_name(size), repeats_name(size)) if name in searches]
        held = {_name(trial) for search in of_size for trial in storage.get_all_trials(search, deepcopy=False)}
        if lost := len(names - held):
            missing.append(f"{lost} of the {len(names)} trials of size {size}")
    if missing:
        raise LedgerBroken(
            f"{output / JOURNAL} says what was tried, and is lost or cut short: it lacks {', '.join(missing)} that "
            f"{output / 'outbox'} has results of. {_ways_out(output)}"
        )


def search_name(size: str) -> str:
    """The name of a size's search in the journal."""
    return size


def repeats_name(size: str) -> str:
    """The name of a size's repeats in the journal."""
    return f"{size}.repeats"


def _ways_out(output: Path) -> str:
    return (
        f"Restore it from a copy that has them all, or begin anew in another --output, into which {output / 'stages'} can be "
        "copied first: what is finished there is not trained again."
    )


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())


class History:
    """The trials of one search, in the order they began."""

    def __init__(self, storage: JournalStorage, name: str, space: Space, *, repeats: bool = False) -> None:
        """With `repeats` a trial's seed is any, and not one of the space's.

        Raises:
            LedgerBroken: the journal holds something else than this search's trials.
        """
        self.name, self.space, self._repeats = name, space, repeats
        try:
            self._study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(),  # samples nothing: every trial comes with its values
            )
            retried = self._study.user_attrs
            self._records = {
                one.number: self._record(one, retried=f"retried:{one.number}" in retried)
                for one in self._trials()
                if one.state.is_finished()
            }
            self._open = {one.number: _choice(one) for one in self._trials() if not one.state.is_finished()}
        except (KeyError, ValueError, TypeError) as error:
            raise LedgerBroken(f"the journal's study {name} is none of this search: {error!r}") from error

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """The finished trials."""
        return tuple(self._records[number] for number in sorted(self._records))

    @property
    def open(self) -> dict[int, Choice]:
        """Trials that began and did not end, by number: to be gone on with."""
        return dict(self._open)

    @property
    def begun(self) -> int:
        return len(self._records) + len(self._open)

    @property
    def counted(self) -> int:
        """Trials that count against the budget: begun, and not tried again under another number."""
        return self.begun - sum(record.retried for record in self._records.values())

    def trial_id(self, number: int) -> str:
        """A trial's name: the same whenever it is gone on with."""
        return _name(self._trials()[number])

    def begin(self, choice: Choice, name: str | None = None) -> int:
        """Note that a trial begins, and give it a number, and a name made of that if it gets none."""
        found, values = self._distributions(choice), parameters(choice)
        self._study.add_trial(  # one line of the journal; to ask for a trial writes one for every parameter
            create_trial(
                state=TrialState.RUNNING,
                params={name: values[name] for name in found},
                distributions=found,
                user_attrs={"choice": asdict(choice), **({} if name is None else {"name": name})},
            )
        )
        number = self._trials()[-1].number
        self._open[number] = choice
        return number

    def report(self, number: int, rung: int, score: float) -> None:
        """Note a score at a rung, for whoever looks at the study while it runs; once for each rung."""
        trial = self._trial(number)
        if math.isfinite(score) and rung not in self._trials()[number].intermediate_values:
            trial.report(score, step=rung)

    def end(self, number: int, outcome: Outcome, metrics: Mapping[str, Any], reason: str | None = None) -> TrialRecord:
        """Note how a trial ended: complete is COMPLETE to Optuna, stopped early PRUNED, and failed FAIL."""
        trial = self._trial(number)
        trial.set_user_attr("metrics", dict(metrics))
        if reason is not None:
            trial.set_user_attr("reason", reason)
        value = float(metrics[METRIC]) if outcome == "complete" else None
        frozen = self._study.tell(number, value, state=_STATES[outcome])
        del self._open[number]
        self._records[number] = self._record(frozen)
        return self._records[number]

    def retry_failed(self) -> int:
        """Begin every failed trial's choice again, but for those that diverged; how many."""
        failed = [number for number, one in self._records.items() if one.outcome == "failed"]
        again = [number for number in failed if not (self._records[number].diverged or self._records[number].retried)]
        for number in again:
            self._study.set_user_attr(f"retried:{number}", True)
            self._records[number] = replace(self._records[number], retried=True)
            name = self._trials()[number].user_attrs.get("name")
            self.begin(self._records[number].choice, name and f"{name}-again")
        return len(again)

    def _record(self, trial: FrozenTrial, *, retried: bool = False) -> TrialRecord:
        return TrialRecord(
            _name(trial),
            _choice(trial),
            _OUTCOMES[trial.state],
            trial.user_attrs.get("metrics", {}),
            trial.user_attrs.get("reason"),
            dict(trial.intermediate_values),
            retried,
        )

    def _distributions(self, choice: Choice) -> dict[str, BaseDistribution]:
        found = distributions(self.space, choice)
        return found | {"seed": IntDistribution(0, 2**31 - 1)} if self._repeats else found

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._trials()[number]._trial_id)


def parameters(choice: Choice) -> dict[str, Any]:
    """A choice as Optuna's parameters: what does not apply is left out."""
    values = asdict(choice)
    if choice.intermediate == NONE:
        del values["lr_intermediate"]
    return values


def distributions(space: Space, choice: Choice) -> dict[str, BaseDistribution]:
    """The distributions of a choice's parameters: one dimension for each that the space leaves open, given the intermediate."""
    found: dict[str, BaseDistribution] = {
        "intermediate": CategoricalDistribution(space.names),
        "lr_target": _of_rates(space.lr_target),
    }
    if choice.intermediate != NONE:
        found["lr_intermediate"] = _of_rates(space.lr_intermediate)
    if len(space.epochs) > 1:
        found["epochs"] = CategoricalDistribution(space.epochs)
    if space.seeds:
        found["seed"] = CategoricalDistribution((None, *space.seeds))
    return found


def _of_rates(rates: Rates) -> BaseDistribution:
    if isinstance(rates, LogUniform):
        return FloatDistribution(rates.low, rates.high, log=True)
    return CategoricalDistribution(rates)


def _name(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("name", f"t{trial.number:04d}"))


def _choice(trial: FrozenTrial) -> Choice:
    return Choice(**trial.user_attrs["choice"])


# Optuna greets every study, and warns that TPE's `group` may change.
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
