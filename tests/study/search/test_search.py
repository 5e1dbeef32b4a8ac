"""The search's own pieces: what Tune is given, what Optuna is told, which trials ASHA may stop, and how trials are ranked."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from ray.tune.search import Searcher

from study.console import Screen, Timeline
from study.run import driver
from study.run.driver import Where, run_study
from study.search.callback import TrialLog
from study.search.searcher import LedgerSearcher, asha
from study.search.slots import Room, need_of
from study.search.suggestions import Proposer
from study.search.sweep import load_result, wanted_repeats
from study.search.trial import choice_of
from study.search.trial_store import (
    JOURNAL,
    History,
    LedgerBroken,
    SearchResult,
    TrialRecord,
    check_whole,
    open_journal,
    repeated_id,
    repeats_name,
)
from study.spec import InvalidStudy
from study.spec.space import Choice, LogUniform, Repeats, Space
from study.tracking.tracker import Tracking, default_uri
from tests.support import recipes

STUDY = recipes.tiny()
SIZE = STUDY.sizes[0]
TARGETS = len(STUDY.targets)
DONE = {"dev_score": 50.0, "test_score": 40.0, "targets_finished": TARGETS, "training_iteration": 3}

_open = contextlib.ExitStack()  # rooms that searchers are in


def _searcher(output: Path, *, trials: int = 3, cores: int = 2, space: Space = STUDY.space) -> LedgerSearcher:
    """A searcher over the output folder's journal, in a room for so many trials."""
    history = History(open_journal(output), SIZE.name, space)
    proposer = Proposer(space, 0, known=history.records, running=list(history.open.values()))
    room = Room({"CPU": cores})
    _open.enter_context(room.entered(SIZE.name, need_of(SIZE), trials))
    return LedgerSearcher(history, SIZE.name, room, proposer=proposer, targets=TARGETS)


def _optuna(output: Path) -> optuna.Study:
    """The study as somebody else opens it."""
    backend = optuna.storages.journal.JournalFileBackend(str(output / JOURNAL))
    return optuna.load_study(study_name=SIZE.name, storage=optuna.storages.JournalStorage(backend))


def _states(output: Path) -> list[str]:
    return [trial.state.name for trial in _optuna(output).trials]


def test_every_intermediate_is_proposed_once_at_the_defaults_before_the_sampler_takes_over(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path)
    proposed = [choice_of(searcher.suggest(f"t{number}") or {}) for number in range(len(STUDY.space.names))]
    assert proposed == STUDY.space.defaults()


def test_no_choice_is_proposed_twice_and_a_grid_comes_to_an_end(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path, trials=99)
    proposed: list[Choice] = []
    while (config := searcher.suggest(f"t{len(proposed)}")) != Searcher.FINISHED:
        assert config is not None
        proposed.append(choice_of(config))
        searcher.on_trial_complete(f"t{len(proposed) - 1}", DONE)
    grid = STUDY.space.grid()
    assert grid is not None
    assert len(proposed) == len(grid) == STUDY.space.points == 4
    assert set(proposed) == set(grid)


def test_a_range_of_learning_rates_gives_others_every_time(tmp_path: Path) -> None:
    space = dataclasses.replace(STUDY.space, lr_target=LogUniform(1e-5, 1e-3, default=1e-4))
    assert math.isinf(space.points)
    searcher = _searcher(tmp_path, trials=99, cores=99, space=space)
    rates = [choice_of(searcher.suggest(f"t{number}") or {}).lr_target for number in range(6)]
    assert rates[:2] == [1e-4, 1e-4]
    assert len(set(rates[2:])) == 4
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)


def test_epochs_and_seeds_are_chosen_where_the_space_has_several(tmp_path: Path) -> None:
    space = dataclasses.replace(STUDY.space, epochs=(1.0, 2.0), seeds=(5,))
    grid = space.grid()
    assert grid is not None
    assert len(grid) == 16  # two intermediates with a rate each, two target rates, two lengths, two seeds
    searcher = _searcher(tmp_path, trials=99, cores=99, space=space)
    assert {choice_of(searcher.suggest(f"t{number}") or {}) for number in range(16)} == set(grid)
    usual, other = STUDY.space.defaults()[1], dataclasses.replace(STUDY.space.defaults()[1], epochs=2.0, seed=5)
    before, after = (STUDY.chain(SIZE, choice)[0].model for choice in (usual, other))
    assert after.training.steps == 2 * before.training.steps  # type: ignore[union-attr]
    assert after.training.seed == after.base.training.seed == 5  # type: ignore[union-attr]
    assert after.base.training.steps == before.base.training.steps  # type: ignore[union-attr]
    assert after.base.base == before.base.base  # type: ignore[union-attr] # the encoder is the same


@pytest.mark.parametrize(
    ("result", "error", "state", "reason"),
    [
        (DONE, False, "COMPLETE", None),
        ({**DONE, "targets_finished": 1}, False, "PRUNED", None),
        ({**DONE, "dev_score": math.nan}, False, "FAIL", "its dev score is nan"),
        ({"diverged": "at step 3"}, False, "FAIL", "diverged: at step 3"),
        ({"error": "ValueError: x"}, False, "FAIL", "ValueError: x"),
        (None, False, "FAIL", "ended without a report"),
        ({**DONE, "targets_finished": 2}, True, "FAIL", "its node went"),
    ],
)
def test_optuna_is_told_the_truth(
    tmp_path: Path, result: dict[str, Any] | None, error: bool, state: str, reason: str | None
) -> None:
    searcher = _searcher(tmp_path)
    searcher.suggest("t0")
    if result and "dev_score" in result:
        searcher.on_trial_result("t0", result)
    if error:
        searcher.on_trial_error_reason("t0", "its node went")
    searcher.on_trial_complete("t0", result, error)
    searcher.on_trial_complete("t0", result, error)  # Tune may say it twice
    assert _states(tmp_path) == [state]
    (record,) = searcher.history.records
    assert record.reason == reason


def test_a_search_goes_on_from_its_journal_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """Two finished, one running, then killed: the running one comes first, under its name; then what would have come anyway."""
    space = dataclasses.replace(STUDY.space, lr_target=(1e-3, 3e-4, 1e-4, 3e-5))
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    searcher = _searcher(one, trials=8, space=space)
    for number in range(8):
        searcher.suggest(f"t{number}")
        searcher.on_trial_result(f"t{number}", {**DONE, "dev_score": 50.0 + number, "targets_finished": 1})
        searcher.on_trial_complete(f"t{number}", DONE)
    whole = [(record.trial_id, record.choice) for record in searcher.history.records]

    killed = _searcher(other, trials=8, space=space)
    for number in range(5):
        killed.suggest(f"t{number}")
        killed.on_trial_result(f"t{number}", {**DONE, "dev_score": 50.0 + number, "targets_finished": 1})
        if number < 4:
            killed.on_trial_complete(f"t{number}", DONE)
    del killed
    again = _searcher(other, trials=4, space=space)
    for number in range(4):
        config = again.suggest(f"u{number}")
        assert config is not None
        if number == 0:
            assert config["trial"] == "t0004"
        again.on_trial_result(f"u{number}", {**DONE, "dev_score": 54.0 + number, "targets_finished": 1})
        again.on_trial_complete(f"u{number}", DONE)
    assert [(record.trial_id, record.choice) for record in again.history.records] == whole
    assert _states(other) == ["COMPLETE"] * 8, "nothing stays RUNNING"


def test_a_line_that_was_cut_short_is_taken_off_and_its_trial_gone_on_with(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path)
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", DONE)
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(content[:-20])  # the end of the trial, in part
    again = _searcher(tmp_path)
    assert list(again.history.open) == [0]
    assert (again.suggest("u0") or {})["trial"] == "t0000"


def test_a_journal_that_cannot_be_read_is_refused_and_not_begun_anew(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path)
    searcher.suggest("t0")
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(b"\0" * 100 + b"\n" + content)
    with pytest.raises(LedgerBroken, match=r"cannot be read .*another --output"):
        _searcher(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes().endswith(content)


def _searched(output: Path) -> set[str]:
    """Three trials, of which one runs on, and a repeat, in the ledger and in what is kept for MLflow; the names there."""
    searcher = _searcher(output)
    with Tracking(default_uri(output), STUDY.name, output, offline=True) as tracking:
        log = TrialLog(STUDY, SIZE, tracking, Screen(Timeline()))
        for number in range(3):
            config = searcher.suggest(f"t{number}") or {}
            log.on_trial_result(0, [], SimpleNamespace(config=config), DONE)
            if number < 2:
                searcher.on_trial_complete(f"t{number}", DONE)
        repeats = History(open_journal(output), repeats_name(SIZE.name), STUDY.space, repeats=True)
        choice = dataclasses.replace(searcher.history.records[0].choice, seed=1)
        repeats.begin(choice, "t0000-s1")
        log.on_trial_result(0, [], SimpleNamespace(config={"trial": "t0000-s1", **dataclasses.asdict(choice)}), DONE)
        assert tracking.trials == {SIZE.name: {"t0000", "t0001", "t0002", "t0000-s1"}}
        return tracking.trials[SIZE.name]


def test_a_ledger_that_lacks_trials_that_mlflow_was_told_of_is_refused(tmp_path: Path) -> None:
    """Cut at any line, or empty: names would begin anew at t0000, and MLflow keep what it has under them."""
    names, lost = _searched(tmp_path), []
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        (tmp_path / JOURNAL).write_bytes(b"".join(lines[:count]))
        storage = open_journal(tmp_path)
        try:
            check_whole(storage, tmp_path, {SIZE.name: names})
        except LedgerBroken as error:
            found = re.search(r"lacks (\d) of the 4 trials of size 1x32 .*from a copy.*another --output", str(error))
            assert found is not None
            lost.append(int(found[1]))
        else:
            lost.append(0)
        assert (tmp_path / JOURNAL).read_bytes() == b"".join(lines[:count]), "asking writes nothing"
    assert lost == sorted(lost, reverse=True)
    assert sorted(set(lost)) == [0, 1, 2, 3, 4]
    check_whole(storage, tmp_path, {})
    with pytest.raises(LedgerBroken, match="lacks 1 of the 2 trials of size 1x32, 1 of the 1 trials of size other"):
        check_whole(storage, tmp_path, {SIZE.name: {"t0001", "t0009"}, "other": {"t0000"}})


@pytest.mark.parametrize("left", [None, 0, 1])
def test_a_study_whose_ledger_was_lost_is_refused_before_anything_starts(
    left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: Any) -> None:
        raise AssertionError("the study began")

    monkeypatch.setattr(driver, "check_data", begun)
    study = recipes.tiny()
    _searched(tmp_path)
    ledger, outbox = tmp_path / JOURNAL, tmp_path / "outbox" / "journal.jsonl"
    lines, written = ledger.read_bytes().splitlines(keepends=True), outbox.read_bytes()
    ledger.unlink()
    if left is not None:
        ledger.write_bytes(b"".join(lines[:left]))
    for _ in range(2):  # the first refusal leaves nothing that the second takes for a search
        with pytest.raises(LedgerBroken, match="lost or cut short: it lacks 4 of the 4 trials of size 1x32"):
            run_study(study, Where(tmp_path, offline=True))
    assert outbox.read_bytes() == written
    ledger.write_bytes(b"".join(lines))
    with Tracking(default_uri(tmp_path), study.name, tmp_path, offline=True) as tracking:
        check_whole(open_journal(tmp_path), tmp_path, tracking.trials)


def test_a_trial_is_in_the_ledger_before_anybody_else_hears_of_it(tmp_path: Path) -> None:
    """So a process that is killed between the two leaves no trial that MLflow alone knows."""
    searcher = _searcher(tmp_path, cores=3)
    for number in range(3):
        name = (searcher.suggest(f"t{number}") or {})["trial"]
        check_whole(open_journal(tmp_path), tmp_path, {SIZE.name: {name}})


def test_a_lock_that_a_killed_process_left_does_not_hold_the_next(tmp_path: Path) -> None:
    Path(f"{tmp_path / JOURNAL}.lock").touch()
    assert _searcher(tmp_path).suggest("t0") is not None


def test_what_storage_did_is_no_trials_failure(tmp_path: Path) -> None:
    """The disk is full: the trial stays open, nothing more is started, and the next run goes on with it."""
    searcher = _searcher(tmp_path)
    searcher.suggest("t0")
    searcher.on_trial_result("t0", {"storage": f"OSError: [Errno {errno.ENOSPC}] No space left on device"})
    searcher.on_trial_complete("t0", {"storage": "..."})
    assert searcher.suggest("t1") == Searcher.FINISHED
    assert _states(tmp_path) == ["RUNNING"]
    assert list(_searcher(tmp_path).history.open) == [0]


def test_failed_trials_are_tried_again_when_that_is_wanted_but_not_those_that_diverged(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path)
    for number, result in enumerate(({"error": "OSError: x"}, {"diverged": "at step 1"})):
        searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", result)
    history = searcher.history
    assert history.counted == 2
    assert history.retry_failed() == 1
    assert history.counted == 2
    again = _searcher(tmp_path)
    assert (again.suggest("u0") or {})["trial"] == "t0002"
    again.on_trial_result("u0", DONE)
    again.on_trial_complete("u0", DONE)
    found = SearchResult(SIZE.name, again.history.records)
    assert [record.trial_id for record in found.failures] == ["t0001"]
    assert again.history.retry_failed() == 0


def test_no_more_trials_start_than_there_is_room_for(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path, cores=1)
    assert searcher.suggest("t0") is not None
    assert searcher.suggest("t1") is None
    searcher.on_trial_complete("t0", DONE)
    assert searcher.suggest("t1") is not None


def test_asha_stops_a_bad_trial_but_never_a_default_cell() -> None:
    """A tenth trial far below nine others at the first rung, two targets, is stopped, unless it is a default cell."""
    default = STUDY.space.defaults()[0]
    sampled = dataclasses.replace(default, lr_target=STUDY.space.lr_target[1])  # type: ignore[index]
    for choice, stopped in ((sampled, True), (default, False)):
        past = [
            TrialRecord(f"t{number}", default, "complete", {}, rungs={1: 1.0, 2: 80.0 + number}) for number in range(9)
        ]
        scheduler = asha(STUDY, past)
        assert not scheduler.stops("last", choice, rung=1, score=1.0), "one target is too few to compare"
        assert scheduler.stops("last", choice, rung=2, score=1.0) is stopped
    assert not asha(STUDY).stops("first", sampled, rung=2, score=1.0)
    early = asha(
        dataclasses.replace(STUDY, first_rung=1), [TrialRecord("t0", sampled, "complete", {}, rungs={1: 80.0})]
    )
    assert early.stops("next", sampled, rung=1, score=1.0)


def test_only_complete_trials_are_ranked_and_on_dev_alone() -> None:
    choice = Choice("none", None, 1e-3)

    def trial(name: str, outcome: Any, dev: float, test: float) -> TrialRecord:
        return TrialRecord(name, choice, outcome, {"dev_score": dev, "test_score": test, "targets_finished": 3})

    result = SearchResult(
        "1x32",
        (
            trial("stopped", "stopped_early", 99.0, 99.0),
            trial("best", "complete", 60.0, 10.0),
            trial("test", "complete", 50.0, 90.0),
        ),
    )
    assert result.best is not None
    assert result.best.trial_id == "best"
    assert SearchResult("1x32", ()).best is None


def test_winners_and_the_best_baseline_are_repeated_with_seeds_of_their_own() -> None:
    study = dataclasses.replace(STUDY, repeats=Repeats(top=1, seeds=3))
    none, other = study.space.defaults()
    scores = {none: 50.0, other: 60.0, dataclasses.replace(none, lr_target=3e-4): 55.0}
    trials = tuple(
        TrialRecord(f"t{number}", choice, "complete", {"dev_score": score})
        for number, (choice, score) in enumerate(scores.items())
    )
    wanted = wanted_repeats(study, SearchResult("1x32", trials))
    assert list(wanted.values()) == ["t1-s1", "t1-s2", "t1-s3", "t2-s1", "t2-s2", "t2-s3"]
    assert {choice.lr_target for choice in wanted if choice.intermediate == "none"} == {3e-4}
    assert [repeated_id(name) for name in ("t1-s3", "t1")] == ["t1", None]
    chains = {study.chain(SIZE, choice)[0] for choice in wanted}
    assert len(chains) == 6, "a seed makes another model"
    assert len({study.pretrain(SIZE)} | {chain.features for chain in chains}) == 2, "on the same encoder and data"
    assert wanted_repeats(STUDY, SearchResult("1x32", trials)) == {}


def test_trials_that_differ_in_their_seed_alone_are_one_winner_and_repeats_have_other_seeds() -> None:
    """The best two by score are one configuration with the seeds 2 and 0; of the baseline seed 5 was best."""
    space = dataclasses.replace(STUDY.space, seeds=(2, 5))
    study = dataclasses.replace(STUDY, space=space, repeats=Repeats(top=2, seeds=3))
    none, other = study.space.defaults()
    second = dataclasses.replace(other, lr_target=3e-4)
    chosen = [(other, None, 60.0), (other, 2, 70.0), (second, 5, 55.0), (none, None, 40.0), (none, 5, 50.0)]
    trials = tuple(
        TrialRecord(f"t{number}", dataclasses.replace(choice, seed=seed), "complete", {"dev_score": score})
        for number, (choice, seed, score) in enumerate(chosen)
    )
    wanted = wanted_repeats(study, SearchResult("1x32", trials))
    repeats: dict[str | None, list[int | None]] = {}
    for choice, name in wanted.items():
        assert name == f"{repeated_id(name)}-s{choice.seed}"
        of = next(trial.choice for trial in trials if trial.trial_id == repeated_id(name))
        assert dataclasses.replace(choice, seed=of.seed) == of
        repeats.setdefault(repeated_id(name), []).append(choice.seed)
    # after the study's 0, without the space's 2 and 5; the same for all, whose scores are compared seed by seed
    assert repeats == {"t1": [1, 3, 4], "t2": [1, 3, 4], "t4": [1, 3, 4]}


def test_a_search_is_finished_when_its_budget_is_used_and_every_repeat_is_there(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, repeats=Repeats(top=1, seeds=1))
    searcher = _searcher(tmp_path)
    for number in range(3):
        assert not load_result(STUDY, SIZE, open_journal(tmp_path))[1]
        searcher.suggest(f"t{number}")
        searcher.on_trial_result(f"t{number}", DONE)
        searcher.on_trial_complete(f"t{number}", DONE)
    result, done = load_result(STUDY, SIZE, open_journal(tmp_path))
    assert done
    assert len(result.trials) == 3
    assert not load_result(study, SIZE, open_journal(tmp_path))[1]
    repeats = History(open_journal(tmp_path), f"{SIZE.name}.repeats", study.space, repeats=True)
    for choice, name in wanted_repeats(study, result).items():
        repeats.end(repeats.begin(choice, name), "complete", DONE)
    again, done = load_result(study, SIZE, open_journal(tmp_path))
    assert done
    assert [record.trial_id for record in again.repeats] == ["t0000-s1"]


def test_a_failed_repeat_that_is_being_tried_again_is_not_finished(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, trials=2, repeats=Repeats(top=1, seeds=1))
    searcher = _searcher(tmp_path)
    for number in range(2):
        searcher.suggest(f"t{number}")
        searcher.on_trial_result(f"t{number}", DONE)
        searcher.on_trial_complete(f"t{number}", DONE)
    ((choice, name),) = wanted_repeats(study, load_result(study, SIZE, open_journal(tmp_path))[0]).items()
    repeats = History(open_journal(tmp_path), f"{SIZE.name}.repeats", study.space, repeats=True)
    repeats.end(repeats.begin(choice, name), "failed", {}, "lost")
    assert load_result(study, SIZE, open_journal(tmp_path))[1]
    assert repeats.retry_failed() == 1
    assert not load_result(study, SIZE, open_journal(tmp_path))[1], "interrupted now, the next run goes on with it"


def test_a_search_that_is_over_starts_nothing_and_says_so_at_once(tmp_path: Path) -> None:
    """To a None Tune listens for ten minutes while no trial runs."""
    searcher = _searcher(tmp_path)
    searcher.broken = "full"
    assert searcher.suggest("t0") == Searcher.FINISHED
    assert searcher.history.begun == 0


def test_a_space_of_which_only_a_part_is_a_range_does_not_run_dry(tmp_path: Path) -> None:
    """Without an intermediate task two choices are left, however often TPE comes back to them."""
    space = dataclasses.replace(STUDY.space, lr_intermediate=LogUniform(1e-4, 1e-2, 1e-3), lr_target=(1e-3, 3e-4))
    proposer = Proposer(space, 0)
    seen = []
    for number in range(40):
        choice = proposer.propose()
        assert choice is not None
        seen.append(choice)
        score = 90.0 if choice.intermediate == "none" else 10.0  # so TPE wants none of the range
        proposer.learn(TrialRecord(f"t{number}", choice, "complete", {"dev_score": score}, rungs={1: score}))
    assert len(set(seen)) == 40
    assert sum(choice.intermediate == "none" for choice in seen) == 2


def test_a_study_says_all_that_is_wrong_with_it_at_once() -> None:
    with pytest.raises(InvalidStudy) as caught:
        dataclasses.replace(
            STUDY,
            name="Tiny Study",
            trials=1,
            reduction_factor=1,
            first_rung=0,
            targets=STUDY.targets[::-1],
            sizes=(SIZE, SIZE),
            repeats=Repeats(seeds=0),
            space=dataclasses.replace(STUDY.space, lr_target=LogUniform(1e-3, 1e-4, 1e-3), epochs=(0.0,)),
        )
    said = "\n".join(caught.value.errors)
    for field in (
        *(
            "name 'Tiny Study'",
            "trials 1",
            "reduction_factor 1",
            "first_rung 0",
            "targets: the first",
            "'1x32' appears twice",
        ),
        *("repeats", "space.lr_target LogUniform", "space.epochs"),
    ):
        assert field in said
