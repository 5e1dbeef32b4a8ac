"""Sizes that share a search under Ray Tune: trials go where the front can move, one size after the other."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from study.cluster.connection import connected
from study.search.front.posterior import Point
from study.search.front.turns import Turns
from study.search.journal import open_journal
from study.search.records import DEV_SCORE, TARGETS_FINISHED, SearchResult, TrialOutcome, TrialRecord
from study.search.slots import Slots
from study.search.sweep import Sweep, load_result
from study.search.trial import choice_of
from study.search.trial_store import TrialStore
from study.spec import Choice
from tests.support import recipes
from trainables.resources import Resources

pytestmark = [pytest.mark.slow, pytest.mark.ray]

RATES = (1e-3, 5e-4, 2e-3)
TINY = recipes.tiny()
STUDY = dataclasses.replace(
    TINY,
    trials=6,
    allocation="front",
    sizes=tuple(dataclasses.replace(size, resources=Resources(), trials=None) for size in TINY.sizes),
    space=dataclasses.replace(TINY.space, lr_target=RATES),
)
FAST, SLOW = (size.name for size in STUDY.sizes)
POSITIONS = {FAST: 0.0, SLOW: 1.0}


def score(size: str, choice: Choice) -> float:
    """The slow size is dominated; target rates move scores by about a point."""
    return (80.0 if size == FAST else 40.0) - abs(math.log(choice.lr_target / 5e-4))


def reads_scores(config: dict[str, Any], *, size: Any, **_: Any) -> None:
    for finished in range(1, len(STUDY.targets) + 1):
        tune.report({DEV_SCORE: score(size.name, choice_of(config)), TARGETS_FINISHED: finished})


def _turns(stores: dict[str, TrialStore]) -> Turns:
    return Turns(STUDY, stores, positions=POSITIONS, seconds=lambda: lambda size, choice: 1.0)


def expected(folder: Path) -> list[Point]:
    """What the decisions alone run, one trial at a time."""
    journal, ran = open_journal(folder), list[Point]()
    stores = {size.name: TrialStore(journal, size.name, space=STUDY.space) for size in STUDY.sizes}
    turns = _turns(stores)
    while (point := turns.decision().next) is not None:
        metrics = {DEV_SCORE: score(point.size, point.choice)}
        stores[point.size].finish(stores[point.size].start(point.choice), TrialOutcome.COMPLETE, metrics=metrics)
        ran.append(point)
    return ran


@pytest.fixture
def cluster() -> Iterator[None]:
    with connected(None, cpus=1):
        yield


def test_sizes_take_turns_as_decided_and_a_dominated_one_stops(tmp_path: Path, cluster: None) -> None:
    """On one core: a size that holds an actor between its turns would block the other for ten minutes."""
    journal, slots, ran = open_journal(tmp_path), Slots({"CPU": 1.0}), list[Point]()
    results: dict[str, SearchResult] = {}

    def sweep(size: Any) -> Sweep:
        def ended(record: TrialRecord) -> None:
            ran.append(Point(size.name, record.choice))

        return Sweep(STUDY, size, tmp_path, slots, _silent, on_trial_end=ended, trial=reads_scores)

    sweeps = {size.name: sweep(size) for size in STUDY.sizes}
    stores = {name: each.store(journal) for name, each in sweeps.items()}
    turns = _turns(stores)

    def search(name: str) -> None:
        results[name] = sweeps[name].search_in_turns(stores[name], turns)

    threads = [threading.Thread(target=search, args=(name,), daemon=True) for name in sweeps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    (tmp_path / "alone").mkdir()
    assert ran == expected(tmp_path / "alone")
    assert len(results[SLOW].trials) < 6
    assert (results[SLOW].ended or "").startswith("dominated")
    result, finished = load_result(STUDY, STUDY.sizes[1], storage=open_journal(tmp_path))
    assert finished
    assert result.ended == results[SLOW].ended


def _silent(stage: str, done: int, total: int, loss: float | None) -> None:
    """Progress of a trial that only reports: discarded."""
