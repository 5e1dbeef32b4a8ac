"""Further runs in place of collapsed ones: which, with which seed, and that they are kept and run once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import StudyFrames
from study.search import collapsed
from study.search.collapsed import Further, in_place_of, want_in_place_of_collapsed
from study.search.journal import open_journal
from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.search.sweep import load_result, wanted_runs
from study.search.trial_store import TrialStore, repeats_name, search_name, wanted_in_place
from study.spec.space import Choice, Repeats
from tests.study.search.conftest import COMPLETE, SIZE, STUDY
from tests.support.studies import build_frames
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic

NONE, TOPIC = STUDY.space.defaults()
OTHER_RATE = dataclasses.replace(NONE, lr_target=3e-4)
REPEATED = dataclasses.replace(STUDY, repeats=Repeats(top=1, seeds=2))


def result(**scores: float) -> SearchResult:
    """A search of none, topic and none at another rate with these dev scores; trials are named t0, t1, t2."""
    trials = []
    for (name, score), choice in zip(scores.items(), (NONE, TOPIC, OTHER_RATE), strict=True):
        trials.append(TrialRecord(name, choice, TrialOutcome.COMPLETE, {"dev_score": score}))
    return SearchResult(SIZE.name, tuple(trials))


SEARCH = result(t0=50.0, t1=40.0, t2=60.0)


def names(further: Further) -> dict[str, list[str]]:
    """The further runs of each collapsed run, by name."""
    for wanted in further.values():
        assert all(name.endswith(f"-s{choice.seed}") for choice, name in wanted.items())
    return {run: sorted(wanted.values()) for run, wanted in further.items()}


def every(further: Further) -> dict[Choice, str]:
    return {choice: name for wanted in further.values() for choice, name in wanted.items()}


def test_a_collapsed_run_gets_another_seed_and_so_does_what_gains_compare_it_with() -> None:
    """t1 is in two tables: at the default rates beside t0, and tuned beside t2, the best trial without a task."""
    further = in_place_of(STUDY, SEARCH, {"t1"}, stored=())
    assert names(further) == {"t1": ["t0-s1", "t1-s1", "t2-s1"]}
    assert {choice.intermediate for choice in further["t1"]} == {"none", TOPIC.intermediate}


def test_a_collapsed_run_without_a_task_takes_every_choice_along_that_is_compared_with_it() -> None:
    space = dataclasses.replace(STUDY.space, intermediates=(MicroTopic(), MicroParaphrase()))
    arms = dataclasses.replace(STUDY, space=space, sizes=(SIZE,), trials=3)
    none, topic, paraphrase = arms.space.defaults()
    trials = tuple(
        TrialRecord(f"t{number}", choice, TrialOutcome.COMPLETE, {"dev_score": 50.0 - number})
        for number, choice in enumerate((none, topic, paraphrase))
    )
    search = SearchResult(SIZE.name, trials)
    assert names(in_place_of(arms, search, {"t0"}, stored=())) == {"t0": ["t0-s1", "t1-s1", "t2-s1"]}
    assert names(in_place_of(arms, search, {"t1"}, stored=())) == {"t1": ["t0-s1", "t1-s1"]}, "not the other task"
    both = in_place_of(arms, search, {"t1", "t2"}, stored=())
    assert names(both) == {"t1": ["t0-s1", "t1-s1"], "t2": ["t0-s1", "t2-s1"]}, "one run without a task serves both"


def test_a_sampled_trial_that_no_gain_counts_is_not_repeated() -> None:
    search = result(
        t0=50.0, t1=40.0, t2=30.0
    )  # t2, none at another rate, is neither a default cell nor the best of its choice
    assert in_place_of(STUDY, search, {"t2"}, stored=()) == {}


def test_the_seed_is_one_that_neither_the_search_nor_a_repeat_has() -> None:
    study = dataclasses.replace(REPEATED, space=dataclasses.replace(STUDY.space, seeds=(3,)))
    search = result(t0=60.0, t1=70.0, t2=50.0)  # t1 and t0, the best baseline, are repeated with 1 and 2
    assert names(in_place_of(study, search, {"t1"}, stored=())) == {"t1": ["t0-s4", "t1-s4"]}


def test_runs_that_collapsed_with_one_seed_get_one_and_one_that_collapses_again_gets_another() -> None:
    search = result(t0=60.0, t1=70.0, t2=50.0)
    first = in_place_of(REPEATED, search, {"t1", "t1-s2"}, stored=())
    assert names(first) == {"t1": ["t0-s3", "t1-s3"], "t1-s2": ["t0-s4", "t1-s4"]}
    stored = every(first)
    assert in_place_of(REPEATED, search, set(), stored=stored) == {}
    assert names(in_place_of(REPEATED, search, {"t1-s4"}, stored=stored)) == {"t1-s4": ["t0-s5", "t1-s5"]}


@pytest.mark.parametrize("run", ["t0-s1", "t0-s2", "t0-s3"])
def test_the_counterpart_of_a_collapsed_run_is_replaced_like_any_other(run: str) -> None:
    """t0 is the best trial, whose repeats have the seeds 1 and 2, and t1's counterpart."""
    search = result(t0=60.0, t1=40.0, t2=50.0)
    stored = every(first := in_place_of(REPEATED, search, {"t1"}, stored=()))
    assert names(first) == {"t1": ["t0-s3", "t1-s3"]}, "no ordinary repeat is announced as a further run"
    paired = ["t1-s4"] if run == "t0-s3" else []  # with the seeds 1 and 2, t1 has no run that it could be compared with
    assert names(in_place_of(REPEATED, search, {run}, stored=stored)) == {run: ["t0-s4", *paired]}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], StudyFrames]:
    """Frames in which a run of the size has collapsed."""

    def frames(trial_id: str) -> StudyFrames:
        table = pd.DataFrame([{"size": SIZE.name, "trial_id": trial_id, "task": "micro_tagging"}])
        monkeypatch.setattr(collapsed, "collapsed_runs", lambda frames: table)
        return build_frames([], body_m={SIZE.name: 1.0})

    return frames


def test_what_is_wanted_stays_in_the_journal_until_it_has_run(
    tmp_path: Path, recorded: Callable[[str], StudyFrames]
) -> None:
    study = dataclasses.replace(STUDY, sizes=(SIZE,), trials=2)
    store = TrialStore(open_journal(tmp_path), search_name(SIZE.name), space=study.space)
    for choice in (NONE, TOPIC):
        store.finish(store.start(choice), TrialOutcome.COMPLETE, metrics=COMPLETE)
    assert load_result(study, SIZE, storage=open_journal(tmp_path))[1]

    (said,) = want_in_place_of_collapsed(study, recorded("t0001"), open_journal(tmp_path))
    assert "t0001 collapsed on micro_tagging" in said
    assert said.endswith("in its place: t0001-s1, t0000-s1")
    assert want_in_place_of_collapsed(study, recorded("t0001"), open_journal(tmp_path)) == [], "the command again"
    search, finished = load_result(study, SIZE, storage=open_journal(tmp_path))
    assert not finished
    wanted = wanted_runs(study, SIZE, search, storage=open_journal(tmp_path))
    assert sorted(wanted.values()) == ["t0000-s1", "t0001-s1"]
    assert wanted == wanted_in_place(open_journal(tmp_path), repeats_name(SIZE.name))

    repeats = TrialStore(open_journal(tmp_path), repeats_name(SIZE.name), space=study.space, repeats=True)
    for choice, name in wanted.items():
        repeats.finish(repeats.start(choice, name), TrialOutcome.COMPLETE, metrics=COMPLETE)
    search, finished = load_result(study, SIZE, storage=open_journal(tmp_path))
    assert finished
    assert {repeat.trial_id: repeat.in_place_of for repeat in search.repeats} == {
        "t0000-s1": ("t0001",),
        "t0001-s1": ("t0001",),
    }
    assert [trial.trial_id for trial in search.ranked] == ["t0000", "t0001"], "a further run never ranks"
