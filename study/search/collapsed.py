"""Runs in place of collapsed ones: training failed on a target that other runs learned, so the choice gets another seed.

The same seed would give the same bits. The further run is a repeat of the trial, like those of the winners: the collapsed run
stays recorded, named and counted, and a repeat never ranks, so a choice does not get two tries at being the best. A gain is
paired by seed, so what the choice is compared with runs with the seed too.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace

from optuna.storages import JournalStorage

from analysis import StudyFrames, collapsed_runs
from study.search.records import SearchResult, TrialRecord, repeat_id, repeated_id
from study.search.sweep import load_result, wanted_repeats
from study.search.trial_store import answered, repeats_name, wanted_in_place, write_wanted_in_place
from study.spec import Study
from study.spec.space import NONE, Choice


def want_in_place_of_collapsed(study: Study, frames: StudyFrames, storage: JournalStorage) -> list[str]:
    """Store which further runs are wanted in place of the runs that are recorded as collapsed; what is new, in words."""
    said = []
    runs = collapsed_runs(frames)
    for size in study.sizes:
        own = runs[runs["size"] == size.name]
        result, _ = load_result(study, size, storage=storage)
        search = repeats_name(size.name)
        stored, collapsed = wanted_in_place(storage, search), set(own["trial_id"]) - answered(storage, search)
        wanted = in_place_of(study, result, collapsed, stored=stored)
        if new := {choice: name for choice, name in wanted.items() if choice not in stored}:
            write_wanted_in_place(storage, search, new, answers=collapsed)
            names = ", ".join(f"{row['trial_id']} on {row['task']}" for row in own.to_dict("records"))
            said.append(f"{size.name}: collapsed: {names}; further runs: {', '.join(new.values())}")
    return said


def in_place_of(
    study: Study, result: SearchResult, collapsed: Collection[str], *, stored: Mapping[Choice, str]
) -> dict[Choice, str]:
    """The names of the further runs in place of collapsed runs, by choice, those `stored` earlier included.

    Each collapsed run gets one, be it a trial, a repeat or a further run; what it is compared with gets one with the same seed,
    which neither of the two had.
    """
    wanted = dict(stored)
    for run in sorted(collapsed):
        trial = next((trial for trial in result.trials if trial.trial_id == (repeated_id(run) or run)), None)
        if trial is None:
            continue
        both = [of_pair for of_pair in (trial, _compared_with(trial, result)) if of_pair is not None]
        seed = _unused_seed(study, both, {*wanted_repeats(study, result), *wanted})
        wanted |= {replace(of_pair.choice, seed=seed): repeat_id(of_pair, seed) for of_pair in both}
    return wanted


def _unused_seed(study: Study, trials: Collection[TrialRecord], runs: Collection[Choice]) -> int:
    """The first seed after the study's that neither the search nor a run of these trials' choices has."""
    choices = {replace(trial.choice, seed=None) for trial in trials}
    used = {*study.space.seeds, *(run.seed for run in runs if replace(run, seed=None) in choices)}
    return next(seed for seed in itertools.count(study.seed + 1) if seed not in used)


def _compared_with(trial: TrialRecord, result: SearchResult) -> TrialRecord | None:
    """For a trial with an intermediate task one without, at the same target rate if there is one; for those, the best."""
    if trial.choice.intermediate == NONE:
        return None if result.best is trial else result.best
    without = [other for other in result.ranked if other.choice.intermediate == NONE]
    alike = replace(trial.choice, intermediate=NONE, lr_intermediate=None)
    return next((other for other in without if other.choice == alike), next(iter(without), None))
