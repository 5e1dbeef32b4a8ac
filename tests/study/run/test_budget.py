"""A budget of hours or money: which trials still start, what is left out, and how a larger one resumes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from study.planning.estimate.study_estimate import StudyEstimate
from study.run.budget import BENCHMARKS, HEADROOM, SPENT, Budget, Spent, all_allow, budgets_of, left_out, prices
from study.search.journal import open_journal
from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.search.searcher import TrialStoreSearcher
from study.search.slots import Slots, trial_request
from study.search.suggestions import suggest
from study.search.trial_store import TrialStore
from study.spec.space import Choice
from tests.study.search.conftest import COMPLETE, SIZE, STUDY, TARGETS
from tests.support.shared_runs import TinyRun
from trainables.benchmark.measurement import CASCADE
from trainables.resources import Resources

CHOICE = STUDY.space.defaults()[0]


@pytest.mark.parametrize(("needed", "allowed"), [(10.0, True), (30.0 / HEADROOM + 0.1, False), (None, True)])
def test_a_trial_starts_if_the_study_still_ends_within_the_budget(needed: float | None, allowed: bool) -> None:
    """Of 100, 70 are spent. What nothing tells yet is tried."""
    budget = Budget(100.0, lambda: 70.0, lambda size, choice: needed)
    assert budget.allows(SIZE.name, CHOICE) is allowed
    unlimited = Budget(1e9, lambda: 0.0, lambda size, choice: 1.0)
    assert all_allow([unlimited, budget])(SIZE.name, CHOICE) is allowed
    assert all_allow([])(SIZE.name, CHOICE)


def test_the_time_of_all_runs_counts(tmp_path: Path) -> None:
    Spent(tmp_path, lambda: 40.0).store()
    second = Spent(tmp_path, lambda: 2.5)
    assert second.seconds == 42.5
    second.store()
    assert Spent(tmp_path, lambda: 0.0).seconds == 42.5
    for damaged in ("damaged", "NaN", "-5", "true", "1" + "0" * 400, ""):
        (tmp_path / SPENT).write_text(damaged)
        assert Spent(tmp_path, lambda: 1.0).seconds == 1.0


def test_money_spent_on_benchmarks_counts_for_the_runs_that_follow(tmp_path: Path) -> None:
    """At the price of an hour of the size's trials, and a cascade's at the largest size's."""
    now = 0.0
    first = Spent(tmp_path, lambda: now)
    with first.benchmark(SIZE.name):
        now += 1800.0
        first.store()
        assert Spent(tmp_path, lambda: 0.0).benchmark_s == {SIZE.name: 1800.0}, "a killed benchmark was paid too"
        now += 1800.0

    def fails() -> None:
        nonlocal now
        with first.benchmark(CASCADE):
            now += 900.0
            raise RuntimeError("the benchmark failed")

    with pytest.raises(RuntimeError, match="the benchmark failed"):
        fails()

    estimate = StudyEstimate(STUDY, tmp_path, capacity={"CPU": 2.0}, gflops=None)
    second = Spent(tmp_path, lambda: 0.0)
    (budget,) = budgets_of(STUDY, estimate, second, hours=None, money=100.0, price=3.0)
    (hours,) = budgets_of(STUDY, estimate, second, hours=2.0, money=None, price=None)
    assert [size.resources.workers for size in STUDY.sizes] == [1, 2]
    assert budget.spent() == pytest.approx(1.0 * 3.0 + 0.25 * 6.0)
    assert hours.limit == 7200.0
    for damaged in ("[1]", "{", '{"1x32": "much"}', ""):
        (tmp_path / BENCHMARKS).write_text(damaged)
        assert Spent(tmp_path, lambda: 0.0).benchmark_s == {}


def test_a_gpu_or_else_a_core_has_the_price() -> None:
    sizes = [
        dataclasses.replace(SIZE, name="cpu", resources=Resources(workers=2, cpus=3)),
        dataclasses.replace(SIZE, name="gpu", resources=Resources(workers=4, cpus=8, gpus=1)),
    ]
    assert prices(sizes, 2.0) == {"cpu": 12.0, "gpu": 8.0, CASCADE: 8.0}, "a cascade as its largest size"


def test_a_search_ends_with_the_trial_that_does_not_fit_and_a_larger_budget_resumes_it(tmp_path: Path) -> None:
    def run(trials_that_fit: int) -> tuple[TrialStore, int]:
        store, slots = TrialStore(open_journal(tmp_path), SIZE.name, space=STUDY.space), Slots({"CPU": 1})
        with slots.admitted(SIZE.name, trial_request(SIZE), trials=9):
            searcher = TrialStoreSearcher(
                store,
                SIZE.name,
                slots=slots,
                suggest_next=lambda: suggest(store, 0),
                may_start=lambda choice: store.started < trials_that_fit,
                targets=TARGETS,
            )
            number = 0
            while searcher.suggest(f"t{number}") != Searcher.FINISHED:
                searcher.on_trial_complete(f"t{number}", COMPLETE)
                number += 1
        return store, number

    store, ran = run(2)
    assert ran == 2
    study = dataclasses.replace(STUDY, sizes=(SIZE,), trials=4)
    assert left_out(study, {SIZE.name: SearchResult(SIZE.name, store.records)}) == {SIZE.name: 2}
    store, ran = run(99)
    assert ran == 2, "those that are finished stay so"
    assert left_out(study, {SIZE.name: SearchResult(SIZE.name, store.records)}) == {}


def test_what_a_search_did_not_want_is_not_left_out() -> None:
    study = dataclasses.replace(STUDY, sizes=(SIZE,), trials=4)
    failed = TrialRecord("t0", CHOICE, TrialOutcome.FAILED, {}, retried=True)
    assert left_out(study, {SIZE.name: SearchResult(SIZE.name, (failed,))}) == {SIZE.name: 4}
    assert left_out(study, {SIZE.name: SearchResult(SIZE.name, (failed,), ended="dominated")}) == {}
    assert left_out(study, {SIZE.name: SearchResult(SIZE.name, ())}, failed=[SIZE.name]) == {}, "its encoder failed"


def test_a_search_that_ended_is_finished_also_for_a_later_run(tmp_path: Path) -> None:
    store = TrialStore(open_journal(tmp_path), SIZE.name, space=STUDY.space)
    assert store.ended is None
    store.end("dominated: 1x64 is faster")
    assert TrialStore(open_journal(tmp_path), SIZE.name, space=STUDY.space).ended == "dominated: 1x64 is faster"


def test_an_interrupted_trial_that_no_longer_fits_stays_unfinished(tmp_path: Path) -> None:
    store, slots = TrialStore(open_journal(tmp_path), SIZE.name, space=STUDY.space), Slots({"CPU": 1})
    store.start(CHOICE)
    offered: list[Choice] = []

    def refuse(choice: Choice) -> bool:
        offered.append(choice)
        return False

    with slots.admitted(SIZE.name, trial_request(SIZE), trials=9):
        searcher = TrialStoreSearcher(store, SIZE.name, slots=slots, may_start=refuse, targets=TARGETS)
        assert searcher.suggest("t0") == Searcher.FINISHED
    assert offered == [CHOICE]
    assert list(store.unfinished) == [0]


def test_a_run_keeps_what_it_and_its_benchmarks_took(tiny_run: TinyRun) -> None:
    spent = Spent(tiny_run.output, lambda: 0.0)
    assert spent.benchmark_s.keys() == {size.name for size in STUDY.sizes}
    assert 0.0 < sum(spent.benchmark_s.values()) < spent.seconds
