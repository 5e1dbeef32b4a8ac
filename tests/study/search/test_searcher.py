"""What Tune's searcher stores of trials, when it starts new ones, and how it resumes."""

from __future__ import annotations

import dataclasses
import errno
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray.tune.search import Searcher

from study.search.journal import JOURNAL
from study.search.records import SearchResult, TrialOutcome
from study.search.slots import Slots
from tests.study.search.conftest import COMPLETE, SIZE, STUDY, MakeSearcher


def states(output: Path) -> list[str]:
    """The states of all trials, as another program reads them with Optuna."""
    backend = optuna.storages.journal.JournalFileBackend(str(output / JOURNAL))
    study = optuna.load_study(study_name=SIZE.name, storage=optuna.storages.JournalStorage(backend))
    return [trial.state.name for trial in study.trials]


@pytest.mark.parametrize(
    ("result", "error", "state", "outcome", "reason"),
    [
        (COMPLETE, False, "COMPLETE", TrialOutcome.COMPLETE, None),
        ({**COMPLETE, "targets_finished": 1}, False, "PRUNED", TrialOutcome.STOPPED_EARLY, None),
        ({**COMPLETE, "dev_score": math.nan}, False, "FAIL", TrialOutcome.FAILED, "its dev score is nan"),
        ({"diverged": "at step 3"}, False, "FAIL", TrialOutcome.DIVERGED, "diverged: at step 3"),
        ({"error": "ValueError: x"}, False, "FAIL", TrialOutcome.FAILED, "ValueError: x"),
        (None, False, "FAIL", TrialOutcome.FAILED, "ended without a report"),
        ({**COMPLETE, "targets_finished": 2}, True, "FAIL", TrialOutcome.FAILED, "its node went"),
    ],
)
def test_every_ending_is_stored_once_and_read_back_the_same(
    make_searcher: MakeSearcher,
    tmp_path: Path,
    result: dict[str, Any] | None,
    error: bool,
    state: str,
    outcome: TrialOutcome,
    reason: str | None,
) -> None:
    searcher = make_searcher(tmp_path)
    searcher.suggest("t0")
    if result and "dev_score" in result:
        searcher.on_trial_result("t0", result)
    if error:
        searcher.record_error("t0", "its node went")
    searcher.on_trial_complete("t0", result, error)
    searcher.on_trial_complete("t0", result, error)  # Tune may call it twice
    assert states(tmp_path) == [state]
    for store in (searcher.trial_store, make_searcher(tmp_path).trial_store):
        (record,) = store.records
        assert (record.outcome, record.reason) == (outcome, reason)


def test_an_interrupted_search_resumes_as_if_it_had_never_stopped(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    """Killed with four trials finished and one running: that one resumes under its name, then come the same as otherwise."""
    space = dataclasses.replace(STUDY.space, lr_target=(1e-3, 3e-4, 1e-4, 3e-5))
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    for folder in (whole, interrupted):
        folder.mkdir()

    def run(output: Path, numbers: range, *, unfinished: int | None = None) -> list[dict[str, Any]]:
        searcher = make_searcher(output, trials=8, space=space)
        configs = []
        for number in numbers:
            configs.append(searcher.suggest(f"t{number}") or {})
            searcher.on_trial_result(f"t{number}", {**COMPLETE, "dev_score": 50.0 + number, "targets_finished": 1})
            if number != unfinished:
                searcher.on_trial_complete(f"t{number}", COMPLETE)
        return configs

    expected = run(whole, range(8))
    before = run(interrupted, range(5), unfinished=4)
    after = run(interrupted, range(4, 8))
    assert after[0]["trial"] == before[4]["trial"] == "t0004"
    assert before[:4] + after == expected
    assert states(interrupted) == ["COMPLETE"] * 8, "nothing stays RUNNING"


def test_a_storage_problem_fails_no_trial(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    """The disk is full: the trial stays unfinished, nothing else starts, and the next run resumes it."""
    searcher = make_searcher(tmp_path)
    searcher.suggest("t0")
    searcher.on_trial_result("t0", {"storage": f"OSError: [Errno {errno.ENOSPC}] No space left on device"})
    searcher.on_trial_complete("t0", {"storage": "..."})
    assert searcher.suggest("t1") == Searcher.FINISHED
    assert states(tmp_path) == ["RUNNING"]
    assert list(make_searcher(tmp_path).trial_store.unfinished) == [0]


def test_failed_trials_are_retried_on_request_unless_they_diverged(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    for number, result in enumerate(({"error": "OSError: x"}, {"diverged": "at step 1"})):
        searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", result)
    store = searcher.trial_store
    assert store.counted == 2
    assert store.retry_failed() == 1
    assert store.counted == 2
    resumed = make_searcher(tmp_path)
    assert (resumed.suggest("u0") or {})["trial"] == "t0002"
    resumed.on_trial_result("u0", COMPLETE)
    resumed.on_trial_complete("u0", COMPLETE)
    finished = SearchResult(SIZE.name, resumed.trial_store.records)
    assert [record.trial_id for record in finished.failures] == ["t0001"]
    assert finished.failed_count == 1, "the retry of the other one is complete"
    assert (finished.count(TrialOutcome.FAILED), finished.count(TrialOutcome.DIVERGED)) == (1, 1)
    assert resumed.trial_store.retry_failed() == 0


def test_a_retry_that_was_started_and_not_marked_is_not_started_again(
    make_searcher: MakeSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed between the two writes."""
    searcher = make_searcher(tmp_path)
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", {"error": "OSError: x"})
    choice = searcher.trial_store.records[0].choice

    def killed(self: object, name: str, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", killed)
        with pytest.raises(KeyboardInterrupt):
            searcher.trial_store.retry_failed()
    store = make_searcher(tmp_path).trial_store
    assert list(store.unfinished.values()) == [choice], "the trial is not lost"
    assert store.retry_failed() == 1
    assert (list(store.unfinished.values()), store.counted) == ([choice], 1)
    assert store.retry_failed() == 0


def test_a_trial_starts_only_when_a_slot_is_free(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, cores=1)
    assert searcher.suggest("t0") is not None
    assert searcher.suggest("t1") is None
    searcher.on_trial_complete("t0", COMPLETE)
    assert searcher.suggest("t1") is not None


def test_a_search_that_is_over_starts_nothing_and_tells_tune_at_once(
    make_searcher: MakeSearcher, tmp_path: Path
) -> None:
    """After None, Tune would wait for ten minutes while no trial runs."""
    searcher = make_searcher(tmp_path)
    searcher.storage_error = "full"
    assert searcher.suggest("t0") == Searcher.FINISHED
    assert searcher.trial_store.started == 0


def test_a_size_whose_turn_it_is_not_waits_for_its_trials_and_then_leaves(
    make_searcher: MakeSearcher, tmp_path: Path
) -> None:
    """Tune asks nothing else of a search without running trials, so its cores would stay taken."""
    mine = [True]
    searcher = make_searcher(tmp_path, turn=lambda: mine[0])
    assert isinstance(searcher.suggest("t0"), dict)
    mine[0] = False
    assert searcher.suggest("t1") is None
    assert searcher.waits_for_slot, "its idle actors are released"
    mine[0] = True
    assert isinstance(searcher.suggest("t1"), dict), "it came back before the first one ended"
    mine[0] = False
    searcher.on_trial_complete("t0", COMPLETE)
    searcher.on_trial_complete("t1", COMPLETE)
    assert searcher.suggest("t2") == Searcher.FINISHED


def test_who_has_the_turn_takes_what_is_left_of_the_cluster(tmp_path: Path) -> None:
    slots = Slots({"CPU": 4.0})
    with (
        slots.admitted("a", {"CPU": 1.0}, trials=9),
        slots.admitted("b", {"CPU": 1.0}, trials=9),
    ):
        assert slots.acquire("a", "a0")
        assert [slots.acquire("b", f"b{number}", alone=True) for number in range(4)] == [True, True, True, False]
