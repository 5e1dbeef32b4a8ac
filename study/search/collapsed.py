"""Runs in place of collapsed ones: training failed on a target that other runs learned, so another seed takes the run's place.

The same seed would give the same bits. A further run is a repeat of the trial, like those of the winners: the collapsed run
stays recorded, named and counted, and a repeat never ranks, so a choice does not get two tries at being the best.

A gain is a difference of two runs with one seed. So whatever a collapsed run is compared with gets the further seed too: of an
intermediate choice the runs without an intermediate task, and of one of these every choice that is compared with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial

from optuna.storages import JournalStorage

from analysis import StudyFrames, collapsed_runs, load
from study.errors import CannotRun
from study.search.records import SearchResult, TrialRecord, repeat_id, repeated_id, seed_of_repeat
from study.search.sweep import load_result, wanted_repeats
from study.search.trial_store import answered, repeats_name, wanted_in_place, write_wanted_in_place
from study.spec import Study
from study.spec.space import NONE, Choice
from study.tracking.tracker import Tracker

Further = dict[str, dict[Choice, str]]  # by collapsed run, the names of the runs in its place, by choice


def recorded(study: Study, tracker: Tracker) -> StudyFrames:
    """What earlier runs of the command recorded.

    Raises:
        CannotRun: it cannot be read.
    """
    try:
        return tracker.read(partial(load, experiment=study.name))
    except ValueError as error:
        raise CannotRun(
            f"--retry-collapsed: the runs of earlier runs of the command cannot be read: {error}"
        ) from error


def want_in_place_of_collapsed(study: Study, frames: StudyFrames, storage: JournalStorage) -> list[str]:
    """Store which further runs are wanted in place of the runs that are recorded as collapsed; what is new, in words."""
    said = []
    runs = collapsed_runs(frames)
    for size in study.sizes:
        of_size = runs[runs["size"] == size.name].groupby("trial_id")["task"].agg(", ".join)
        own = {str(run): str(tasks) for run, tasks in of_size.items()}
        result, _ = load_result(study, size, storage=storage)
        search = repeats_name(size.name)
        collapsed = own.keys() - answered(storage, search).keys()
        further = in_place_of(study, result, collapsed, stored=wanted_in_place(storage, search))
        if further:
            write_wanted_in_place(storage, search, further)
        for run in sorted(collapsed):
            names = ", ".join(further[run].values()) if run in further else "nothing, as it counts in no gain"
            said.append(f"{size.name}: {run} collapsed on {own[run]}; in its place: {names}")
    return said


def in_place_of(
    study: Study, result: SearchResult, collapsed: Collection[str], *, stored: Collection[Choice]
) -> Further:
    """The further runs in place of collapsed ones, be they trials, repeats or further runs; `stored` are earlier further runs.

    Runs that collapsed with one seed get one further seed, which none of the choices concerned has. A sampled trial that no
    gain counts (`analysis.store.counted`) gets none.
    """
    known = {*wanted_repeats(study, result), *stored}
    by_seed: dict[int | None, dict[str, list[TrialRecord]]] = {}
    for run in sorted(collapsed):
        trial = next((trial for trial in result.ranked if trial.trial_id == (repeated_id(run) or run)), None)
        if trial is None or not (partners := _compared(study, result, trial)):
            continue
        seed = seed_of_repeat(run) if repeated_id(run) else trial.choice.seed
        paired = [other for other in partners if other.choice.seed == seed or replace(other.choice, seed=seed) in known]
        by_seed.setdefault(seed, {})[run] = list({other.trial_id: other for other in (trial, *paired)}.values())
    further: Further = {}
    for of_seed in by_seed.values():
        seed = _unused_seed(study, itertools.chain.from_iterable(of_seed.values()), known)
        for run, trials in of_seed.items():
            further[run] = {replace(trial.choice, seed=seed): repeat_id(trial, seed) for trial in trials}
            known |= further[run].keys()
    return further


def _compared(study: Study, result: SearchResult, trial: TrialRecord) -> list[TrialRecord]:
    """The trial and what gains compare it with: at the default rates, and each choice at its best. None if none does."""
    space = study.space_of(study.size(result.size))
    best = {other.choice.intermediate: other for other in reversed(result.ranked)}
    tables = ([other for other in result.ranked if space.is_default(other.choice)], list(best.values()))
    return [other for table in tables if trial in table for other in _partners(trial, table)]


def _partners(trial: TrialRecord, table: Collection[TrialRecord]) -> Iterator[TrialRecord]:
    """The trial, and those on the other side of a comparison with it."""
    baseline = trial.choice.intermediate == NONE
    yield from (other for other in table if other is trial or (other.choice.intermediate == NONE) != baseline)


def _unused_seed(study: Study, trials: Iterable[TrialRecord], runs: Collection[Choice]) -> int:
    """The first seed after the study's that neither the search nor a run of these trials' choices has."""
    choices = {replace(trial.choice, seed=None) for trial in trials}
    used = {*study.space.seeds, *(run.seed for run in runs if replace(run, seed=None) in choices)}
    return next(seed for seed in itertools.count(study.seed + 1) if seed not in used)
