"""Which trials are repeated with further seeds, and when a size's search is finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune

from study.search.journal import open_journal
from study.search.records import SearchResult, TrialOutcome, TrialRecord, repeated_id
from study.search.searcher import TrialStoreSearcher
from study.search.slots import Slots
from study.search.sweep import Sweep, load_result, wanted_repeats
from study.search.trial_store import TrialStore, repeats_name
from study.spec.space import Choice, Repeats
from tests.study.search.conftest import COMPLETE, SIZE, STUDY, MakeSearcher
from trainables.launch.job import no_progress


def _complete(name: str, choice: Choice, score: float) -> TrialRecord:
    return TrialRecord(name, choice, TrialOutcome.COMPLETE, {"dev_score": score})


def _run(searcher: TrialStoreSearcher, number: int) -> None:
    searcher.suggest(f"t{number}")
    searcher.on_trial_result(f"t{number}", COMPLETE)
    searcher.on_trial_complete(f"t{number}", COMPLETE)


def test_winners_and_the_best_baseline_are_repeated_with_further_seeds() -> None:
    study = dataclasses.replace(STUDY, repeats=Repeats(top=1, seeds=3))
    none, other = study.space.defaults()
    scores = {none: 50.0, other: 60.0, dataclasses.replace(none, lr_target=3e-4): 55.0}
    trials = tuple(_complete(f"t{number}", *trial) for number, trial in enumerate(scores.items()))
    wanted = wanted_repeats(study, SearchResult("1x32", trials))
    assert list(wanted.values()) == ["t1-s1", "t1-s2", "t1-s3", "t2-s1", "t2-s2", "t2-s3"]
    assert {choice.lr_target for choice in wanted if choice.intermediate == "none"} == {3e-4}
    assert [repeated_id(name) for name in ("t1-s3", "t1")] == ["t1", None]
    chains = {study.chain(SIZE, choice)[0] for choice in wanted}
    assert len(chains) == 6, "each seed gives another model"
    assert len({study.encoder_stage(SIZE)} | {chain.features for chain in chains}) == 2, "on the same encoder and data"
    assert wanted_repeats(STUDY, SearchResult("1x32", trials)) == {}


def test_trials_that_differ_only_in_their_seed_are_one_winner_and_repeats_have_other_seeds() -> None:
    """The best two by score are one configuration with the seeds 2 and 0; the best baseline has seed 5."""
    space = dataclasses.replace(STUDY.space, seeds=(2, 5))
    study = dataclasses.replace(STUDY, space=space, repeats=Repeats(top=2, seeds=3))
    none, other = study.space.defaults()
    second = dataclasses.replace(other, lr_target=3e-4)
    chosen = [(other, None, 60.0), (other, 2, 70.0), (second, 5, 55.0), (none, None, 40.0), (none, 5, 50.0)]
    trials = tuple(
        _complete(f"t{number}", dataclasses.replace(choice, seed=seed), score)
        for number, (choice, seed, score) in enumerate(chosen)
    )
    repeats: dict[str | None, list[int | None]] = {}
    for choice, name in wanted_repeats(study, SearchResult("1x32", trials)).items():
        assert name == f"{repeated_id(name)}-s{choice.seed}"
        repeated = next(trial.choice for trial in trials if trial.trial_id == repeated_id(name))
        assert dataclasses.replace(choice, seed=repeated.seed) == repeated
        repeats.setdefault(repeated_id(name), []).append(choice.seed)
    # After the study's own seed 0, without the space's 2 and 5. The same for all, whose scores are compared seed by seed.
    assert repeats == {"t1": [1, 3, 4], "t2": [1, 3, 4], "t4": [1, 3, 4]}


def test_a_search_is_finished_when_its_budget_is_used_up_and_every_repeat_is_stored(
    make_searcher: MakeSearcher, tmp_path: Path
) -> None:
    study = dataclasses.replace(STUDY, repeats=Repeats(top=1, seeds=1))
    searcher = make_searcher(tmp_path)
    for number in range(3):
        assert not load_result(STUDY, SIZE, storage=open_journal(tmp_path))[1]
        _run(searcher, number)
    result, finished = load_result(STUDY, SIZE, storage=open_journal(tmp_path))
    assert finished
    assert len(result.trials) == 3
    assert not load_result(study, SIZE, storage=open_journal(tmp_path))[1]
    repeats = TrialStore(open_journal(tmp_path), repeats_name(SIZE.name), space=study.space, repeats=True)
    for choice, name in wanted_repeats(study, result).items():
        repeats.finish(repeats.start(choice, name), TrialOutcome.COMPLETE, metrics=COMPLETE)
    result, finished = load_result(study, SIZE, storage=open_journal(tmp_path))
    assert finished
    assert [record.trial_id for record in result.repeats] == ["t0000-s1"]


def test_a_search_is_unfinished_while_a_failed_repeat_is_retried(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, trials=2, repeats=Repeats(top=1, seeds=1))
    searcher = make_searcher(tmp_path)
    for number in range(2):
        _run(searcher, number)
    result, _ = load_result(study, SIZE, storage=open_journal(tmp_path))
    ((choice, name),) = wanted_repeats(study, result).items()
    repeats = TrialStore(open_journal(tmp_path), repeats_name(SIZE.name), space=study.space, repeats=True)
    repeats.finish(repeats.start(choice, name), TrialOutcome.FAILED, metrics={}, reason="lost")
    assert load_result(study, SIZE, storage=open_journal(tmp_path))[1]
    assert repeats.retry_failed() == 1
    assert not load_result(study, SIZE, storage=open_journal(tmp_path))[1], "interrupted now, the next run resumes it"


def test_the_driver_keeps_nothing_in_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends a driver that does, without saying why, when its node is lost."""
    registered: list[Callable[[dict[str, Any]], None]] = []
    ran: list[dict[str, Any]] = []

    class Tuner:
        def __init__(self, name: str, **_: Any) -> None:
            assert name == f"{STUDY.name}-{SIZE.name}"

        def fit(self) -> None:
            registered[0]({"trial": "t0"})

    def trial(config: dict[str, Any], **values: Any) -> None:
        ran.append({**config, **values})

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "put", lambda value: pytest.fail(f"{value} was put into the object store"))
    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "register_trainable", lambda name, function, warn: registered.append(function))
    slots = Slots({"CPU": 2.0})
    sweep = Sweep(STUDY, SIZE, tmp_path, slots, no_progress, trial=trial)
    sweep.search(open_journal(tmp_path))
    assert ran == [{"trial": "t0", "study": STUDY, "size": SIZE, "output": str(tmp_path), "progress": no_progress}]
