"""Which choices a search tries: default cells first, nothing twice, and every parameter that the space leaves open."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from study.search.journal import JOURNAL, open_journal
from study.search.records import TrialOutcome
from study.search.suggestions import suggest
from study.search.trial import choice_of
from study.search.trial_store import TrialStore
from study.spec.space import Choice, LogUniform
from tests.study.search.conftest import COMPLETE, SIZE, STUDY, MakeSearcher


def test_every_intermediate_is_suggested_once_at_the_defaults_before_the_sampler_takes_over(
    make_searcher: MakeSearcher, tmp_path: Path
) -> None:
    searcher = make_searcher(tmp_path)
    suggested = [choice_of(searcher.suggest(f"t{number}") or {}) for number in range(len(STUDY.space.names))]
    assert suggested == STUDY.space.defaults()


def test_the_default_cells_come_in_the_order_that_is_given_also_after_an_interruption(tmp_path: Path) -> None:
    none, topic = STUDY.space.defaults()
    store = TrialStore(open_journal(tmp_path), SIZE.name, space=STUDY.space)
    first = (topic.intermediate, none.intermediate)
    assert suggest(store, 0, first=first) == topic
    assert suggest(store, 0, first=("unknown",)) == none, "what has no place keeps the space's order"
    store.start(topic)
    resumed = TrialStore(open_journal(tmp_path), SIZE.name, space=STUDY.space)
    assert suggest(resumed, 0, first=first) == none


def test_a_grid_is_suggested_completely_and_without_repetition(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, trials=99)
    suggested: list[Choice] = []
    while (config := searcher.suggest(f"t{len(suggested)}")) != Searcher.FINISHED:
        assert config is not None
        suggested.append(choice_of(config))
        searcher.on_trial_complete(f"t{len(suggested) - 1}", COMPLETE)
    grid = STUDY.space.grid()
    assert grid is not None
    assert len(suggested) == len(grid) == STUDY.space.choice_count == 4
    assert set(suggested) == set(grid)


def test_a_range_of_learning_rates_gives_a_new_one_every_time(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    space = dataclasses.replace(STUDY.space, lr_target=LogUniform(1e-5, 1e-3, default=1e-4))
    assert math.isinf(space.choice_count)
    searcher = make_searcher(tmp_path, trials=99, cores=99, space=space)
    rates = [choice_of(searcher.suggest(f"t{number}") or {}).lr_target for number in range(6)]
    assert rates[:2] == [1e-4, 1e-4], "the default cells"
    assert len(set(rates[2:])) == 4
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)


def test_epochs_and_seeds_are_chosen_where_the_space_has_several(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    space = dataclasses.replace(STUDY.space, epochs=(1.0, 2.0), seeds=(5,))
    grid = space.grid()
    assert grid is not None
    assert len(grid) == 16  # two intermediates with one rate each, two target rates, two lengths, two seeds
    searcher = make_searcher(tmp_path, trials=99, cores=99, space=space)
    assert {choice_of(searcher.suggest(f"t{number}") or {}) for number in range(16)} == set(grid)


def test_epochs_and_seed_reach_the_training_of_a_trial() -> None:
    default = STUDY.space.defaults()[1]
    changed = dataclasses.replace(default, epochs=2.0, seed=5)
    before, after = (STUDY.chain(SIZE, choice)[0].model for choice in (default, changed))
    assert after.training.steps == 2 * before.training.steps  # type: ignore[union-attr]
    assert after.training.seed == after.base.training.seed == 5  # type: ignore[union-attr]
    assert after.base.training.steps == before.base.training.steps  # type: ignore[union-attr]
    assert after.base.base == before.base.base, "the encoder is the same"  # type: ignore[union-attr]


def _searched(store: TrialStore, trials: int, *, score: Callable[[Choice], float], seed: int = 0) -> list[Choice]:
    """The choices of so many trials, one at a time, all complete."""
    suggested = []
    for _ in range(trials):
        choice = suggest(store, seed)
        assert choice is not None
        suggested.append(choice)
        number = store.start(choice)
        store.report(number, 1, score=score(choice))
        store.finish(number, TrialOutcome.COMPLETE, metrics={"dev_score": score(choice)})
    return suggested


def test_a_space_with_ranges_in_only_some_choices_does_not_run_dry(tmp_path: Path) -> None:
    """Without an intermediate task there are only two choices, however often TPE comes back to them."""
    space = dataclasses.replace(STUDY.space, lr_intermediate=LogUniform(1e-4, 1e-2, 1e-3), lr_target=(1e-3, 3e-4))
    store = TrialStore(open_journal(tmp_path), SIZE.name, space=space)
    # TPE prefers the choices without a range.
    suggested = _searched(store, 40, score=lambda choice: 90.0 if choice.intermediate == "none" else 10.0)
    assert len(set(suggested)) == 40
    assert sum(choice.intermediate == "none" for choice in suggested) == 2


GRID = dataclasses.replace(STUDY.space, lr_intermediate=(1e-3, 5e-4, 2e-3), lr_target=(1e-3, 5e-4, 2e-3, 4e-3, 2.5e-4))


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [0, 1, 3, 2, 5, 4, 15, 10, 17, 7, 16, 14, 18, 9]),
        (1, [0, 1, 5, 3, 4, 2, 15, 10, 9, 16, 13, 8, 7, 19]),
        (2, [0, 1, 4, 5, 3, 2, 10, 15, 6, 14, 9, 16, 8, 19]),
    ],
)
def test_stored_searches_continue_with_the_suggestions_that_they_always_had(
    seed: int, expected: list[int], tmp_path: Path
) -> None:
    """Positions in the grid, as the sampler suggested them when it had a study of its own in memory."""
    grid = GRID.grid() or []
    store = TrialStore(open_journal(tmp_path), SIZE.name, space=GRID)
    suggested = _searched(store, len(expected), score=lambda choice: 50.0 - grid.index(choice), seed=seed)
    assert [grid.index(choice) for choice in suggested] == expected


def test_suggesting_stores_nothing(tmp_path: Path) -> None:
    """A drawn choice becomes a trial when it starts; a process that ends before leaves no trace."""
    store = TrialStore(open_journal(tmp_path), SIZE.name, space=GRID)
    _searched(store, 5, score=lambda choice: choice.lr_target)
    before = (tmp_path / JOURNAL).read_bytes()
    assert suggest(store, 0) == suggest(store, 0)
    assert (tmp_path / JOURNAL).read_bytes() == before
