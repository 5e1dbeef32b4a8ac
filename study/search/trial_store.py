"""The trial store: every trial of every search, as Optuna studies in one journal in the output folder.

A trial is written when it starts and when it ends. After any interruption the journal therefore says which trials are finished,
which are to be resumed, and how much of the budget is left; nothing is ever restored from Ray Tune. `optuna-dashboard` and
`optuna.load_study` can open the file, also while a study runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.search.journal import JOURNAL, TrialStoreBroken, ways_out
from study.search.records import DEV_SCORE, DIVERGED_REASON, SearchResult, TrialOutcome, TrialRecord
from study.spec.space import Choice, LogUniform, Rates, Space
from study.spec.validation import REPEATS

_IN_PLACE = "in place of a collapsed run:"  # starts the names of a search's attributes
_ANSWERED = (
    "answered:"  # before the name of a collapsed run; the value names its further runs (True: an earlier version)
)
_AGAIN = "-again"  # ends the name of a repeat that failed and runs again
ENDED = "ended"  # name of a search's attribute
STATES: dict[TrialOutcome, TrialState] = {
    TrialOutcome.COMPLETE: TrialState.COMPLETE,
    TrialOutcome.STOPPED_EARLY: TrialState.PRUNED,
    TrialOutcome.FAILED: TrialState.FAIL,
    TrialOutcome.DIVERGED: TrialState.FAIL,
}


def check_nothing_lost(storage: JournalStorage, output: Path, *, known: Mapping[str, Set[str]]) -> None:
    """Check that the journal has every known trial and repeat. Writes nothing.

    A lost trial's name would be given to a new trial, whose run in MLflow would keep parameters and scores of the lost one.

    Args:
        known: names of trials and repeats that have results, by size.

    Raises:
        TrialStoreBroken: trials are missing, so the journal was lost or cut short.
    """
    searches = {
        search.study_name: storage.get_study_id_from_name(search.study_name) for search in storage.get_all_studies()
    }
    missing = []
    for size, names in sorted(known.items()):
        of_size = [searches[name] for name in (search_name(size), repeats_name(size)) if name in searches]
        stored = {_name(trial) for search in of_size for trial in storage.get_all_trials(search, deepcopy=False)}
        if lost := len(names - stored):
            missing.append(f"{lost} of the {len(names)} trials of size {size}")
    if missing:
        raise TrialStoreBroken(
            f"{output / JOURNAL} was lost or cut short: it lacks {', '.join(missing)}, whose results are in "
            f"{output / 'outbox'}. {ways_out(output)}"
        )


def search_name(size: str) -> str:
    """The name of a size's search in the journal."""
    return size


def repeats_name(size: str) -> str:
    """The name of a size's repeats in the journal."""
    return size + REPEATS


def wanted_in_place(storage: JournalStorage, search: str) -> dict[Choice, str]:
    """The names of the runs wanted in place of collapsed ones, by choice, as `write_wanted_in_place` stored them."""
    known = {stored.study_name: stored.user_attrs for stored in storage.get_all_studies()}
    attributes = known.get(search, {})
    return {
        Choice(**value): name.removeprefix(_IN_PLACE)
        for name, value in attributes.items()
        if name.startswith(_IN_PLACE)
    }


def answered(storage: JournalStorage, search: str) -> dict[str, tuple[str, ...]]:
    """The collapsed runs for which further runs are stored, and the names of these; () where an earlier version stored it."""
    known = {stored.study_name: stored.user_attrs for stored in storage.get_all_studies()}
    return _answered(known.get(search, {}))


def _answered(attributes: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {
        name.removeprefix(_ANSWERED): tuple(further) if isinstance(further, list) else ()
        for name, further in attributes.items()
        if name.startswith(_ANSWERED)
    }


def write_wanted_in_place(storage: JournalStorage, search: str, further: Mapping[str, Mapping[Choice, str]]) -> None:
    """Store the further runs to make for each collapsed run, in a search of repeats, which is created if there was none."""
    study = optuna.create_study(storage=storage, study_name=search, direction="maximize", load_if_exists=True)
    for run, wanted in further.items():
        for choice, name in wanted.items():
            study.set_user_attr(f"{_IN_PLACE}{name}", asdict(choice))
        study.set_user_attr(f"{_ANSWERED}{run}", sorted(wanted.values()))


def stored_searches(storage: JournalStorage) -> dict[str, SearchResult]:
    """The finished trials and repeats of every size in the journal, whatever study wrote them.

    Raises:
        TrialStoreBroken: the journal has something other than a search's trials.
    """
    searches: dict[str, SearchResult] = {}
    names = [search.study_name for search in storage.get_all_studies()]
    try:
        for name in names:
            if not name.endswith(REPEATS):
                trials, repeats = (
                    _finished(storage, stored) if stored in names else () for stored in (name, repeats_name(name))
                )
                searches[name] = SearchResult(name, trials, repeats)
    except (KeyError, ValueError, TypeError) as error:
        raise TrialStoreBroken(f"the journal has no search of a study: {error!r}") from error
    return searches


def _finished(storage: JournalStorage, name: str) -> tuple[TrialRecord, ...]:
    trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    return tuple(_record(trial) for trial in trials if trial.state.is_finished())


class TrialStore:
    """The trials of one search, in the order they started."""

    def __init__(self, storage: JournalStorage, name: str, *, space: Space, repeats: bool = False) -> None:
        """Open the search, or create it. With `repeats`, a trial's seed need not be in the space.

        Raises:
            TrialStoreBroken: the journal has something other than this search's trials under the name.
        """
        self.name, self.space, self._storage, self._repeats = name, space, storage, repeats
        try:
            self._study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(),  # never samples: every trial comes with its values
            )
            retried = self._study.user_attrs
            self._collapsed_of: dict[str, tuple[str, ...]] = {}  # by further run
            for run, further in sorted(_answered(retried).items()):
                for name in further:
                    self._collapsed_of[name] = (*self._collapsed_of.get(name, ()), run)
            self._records = {
                trial.number: self._record(trial, retried=f"retried:{trial.number}" in retried)
                for trial in self._trials()
                if trial.state.is_finished()
            }
            self._unfinished = {
                trial.number: _choice(trial) for trial in self._trials() if not trial.state.is_finished()
            }
        except (KeyError, ValueError, TypeError) as error:
            raise TrialStoreBroken(f"the journal's study {name} is not a search of this study: {error!r}") from error

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """The finished trials."""
        return tuple(self._records[number] for number in sorted(self._records))

    @property
    def unfinished(self) -> dict[int, Choice]:
        """Trials that started and did not end, by number: running ones, and interrupted ones to resume."""
        return dict(self._unfinished)

    @property
    def tried(self) -> set[Choice]:
        """The choices of all trials."""
        unfinished = list(self._unfinished.values())  # first: `finish`, in another thread, moves them to the records
        return {*unfinished, *(record.choice for record in list(self._records.values()))}

    def as_optuna_study(self) -> optuna.Study:
        """The search as a sampler reads it. Optuna caches trials until `ask`, so this is a new reader of the same journal."""
        return optuna.load_study(study_name=self.name, storage=self._storage)

    @property
    def started(self) -> int:
        """How many trials have started."""
        return len(self._records) + len(self._unfinished)

    @property
    def counted(self) -> int:
        """How many trials count against the budget: a failed one and its retry count once."""
        return self.started - sum(record.retried for record in list(self._records.values()))

    def trial_id(self, number: int) -> str:
        """A trial's name, which stays the same when it resumes."""
        return _name(self._trials()[number])

    @property
    def ended(self) -> str | None:
        """Why the search ended before its budget was used; None where it did not."""
        return self._study.user_attrs.get(ENDED)

    def end(self, reason: str) -> None:
        """Store that nothing else will start."""
        self._study.set_user_attr(ENDED, reason)

    def start(self, choice: Choice, name: str | None = None) -> int:
        """Store a trial as started and return its number. Without `name`, it is named after the number."""
        applicable, values = self._distributions(choice), parameters(choice)
        self._study.add_trial(  # one line in the journal; `ask` writes one per parameter
            create_trial(
                state=TrialState.RUNNING,
                params={parameter: values[parameter] for parameter in applicable},
                distributions=applicable,
                user_attrs={"choice": asdict(choice), **({} if name is None else {"name": name})},
            )
        )
        number = self._trials()[-1].number
        self._unfinished[number] = choice
        return number

    def report(self, number: int, targets_finished: int, *, score: float) -> None:
        """Store a trial's dev score after so many targets; only the first finite score for a number of targets counts."""
        trial = self._trial(number)
        if math.isfinite(score) and targets_finished not in self._trials()[number].intermediate_values:
            trial.report(score, step=targets_finished)

    def finish(
        self, number: int, outcome: TrialOutcome, *, metrics: Mapping[str, Any], reason: str | None = None
    ) -> TrialRecord:
        """Store how a trial ended, in the state of `STATES`."""
        trial = self._trial(number)
        trial.set_user_attr("metrics", dict(metrics))
        if reason is not None:
            trial.set_user_attr("reason", reason)
        value = float(metrics[DEV_SCORE]) if outcome is TrialOutcome.COMPLETE else None
        frozen = self._study.tell(number, value, state=STATES[outcome])
        self._records[number] = self._record(frozen)
        del self._unfinished[number]  # last: other threads read, and must not take the choice for untried
        return self._records[number]

    def _record(self, trial: FrozenTrial, *, retried: bool = False) -> TrialRecord:
        record = _record(trial, retried=retried)
        wanted_as = record.trial_id.partition(_AGAIN)[0]
        return replace(record, in_place_of=self._collapsed_of.get(wanted_as, ()))

    def retry_failed(self) -> int:
        """Start the choice of every retriable trial again, and return how many there are.

        Started first and marked afterwards: a run that was killed in between has a later trial of the choice.
        """
        retriable = [number for number, record in self._records.items() if record.retriable]
        choices = {number: record.choice for number, record in self._records.items()} | self._unfinished
        for number in retriable:
            choice = choices[number]
            if not any(later > number and choices[later] == choice for later in choices):
                name = self._trials()[number].user_attrs.get("name")
                self.start(choice, name and f"{name}{_AGAIN}")
            self._study.set_user_attr(f"retried:{number}", True)
            self._records[number] = replace(self._records[number], retried=True)
        return len(retriable)

    def _distributions(self, choice: Choice) -> dict[str, BaseDistribution]:
        of_space = distributions(self.space, choice)
        return of_space | {"seed": IntDistribution(0, 2**31 - 1)} if self._repeats else of_space

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._trials()[number]._trial_id)


def parameters(choice: Choice) -> dict[str, Any]:
    """A choice as Optuna's parameters, without those that do not apply to it."""
    values = asdict(choice)
    if choice.lr_intermediate is None:
        del values["lr_intermediate"]
    return values


def distributions(space: Space, choice: Choice) -> dict[str, BaseDistribution]:
    """The distributions of a choice's parameters: those that the space leaves open for its arm."""
    applicable: dict[str, BaseDistribution] = {
        "intermediate": CategoricalDistribution(space.names),
        "lr_target": _rates_distribution(space.lr_target),
    }
    if space.arm(choice.intermediate).uses_rate:
        applicable["lr_intermediate"] = _rates_distribution(space.lr_intermediate)
    if len(space.epochs) > 1:
        applicable["epochs"] = CategoricalDistribution(space.epochs)
    if space.seeds:
        applicable["seed"] = CategoricalDistribution((None, *space.seeds))
    return applicable


def _rates_distribution(rates: Rates) -> BaseDistribution:
    if isinstance(rates, LogUniform):
        return FloatDistribution(rates.low, rates.high, log=True)
    return CategoricalDistribution(rates)


def _record(trial: FrozenTrial, *, retried: bool = False) -> TrialRecord:
    """Raises ValueError: the trial is complete, and its metrics were lost."""
    if trial.state == TrialState.COMPLETE and trial.user_attrs.get("metrics", {}).get(DEV_SCORE) != trial.value:
        raise ValueError(f"its trial {_name(trial)} is complete and lacks its scores")
    return TrialRecord(
        _name(trial),
        _choice(trial),
        _outcome(trial),
        trial.user_attrs.get("metrics", {}),
        trial.user_attrs.get("reason"),
        dict(trial.intermediate_values),
        retried,
    )


def _outcome(trial: FrozenTrial) -> TrialOutcome:
    """The outcome behind Optuna's state: FAIL has two, which the stored reason tells apart."""
    if trial.state == TrialState.FAIL and trial.user_attrs.get("reason", "").startswith(DIVERGED_REASON):
        return TrialOutcome.DIVERGED
    return next(outcome for outcome, state in STATES.items() if state == trial.state)


def _name(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("name", f"t{trial.number:04d}"))


def _choice(trial: FrozenTrial) -> Choice:
    return Choice(**trial.user_attrs["choice"])
