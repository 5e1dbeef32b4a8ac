"""Which choices a search tries: default cells first, nothing twice, and every parameter that the space leaves open."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from ray.tune.search import Searcher

from study.search.records import TrialOutcome, TrialRecord
from study.search.suggestions import Suggester
from study.search.trial import choice_of
from study.spec.space import Choice, LogUniform
from tests.study.search.conftest import COMPLETE, SIZE, STUDY, MakeSearcher


def test_every_intermediate_is_suggested_once_at_the_defaults_before_the_sampler_takes_over(
    make_searcher: MakeSearcher, tmp_path: Path
) -> None:
    searcher = make_searcher(tmp_path)
    suggested = [choice_of(searcher.suggest(f"t{number}") or {}) for number in range(len(STUDY.space.names))]
    assert suggested == STUDY.space.defaults()


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


def test_a_space_with_ranges_in_only_some_choices_does_not_run_dry() -> None:
    """Without an intermediate task there are only two choices, however often TPE comes back to them."""
    space = dataclasses.replace(STUDY.space, lr_intermediate=LogUniform(1e-4, 1e-2, 1e-3), lr_target=(1e-3, 3e-4))
    suggester = Suggester(space, 0)
    suggested = []
    for number in range(40):
        choice = suggester.suggest()
        assert choice is not None
        suggested.append(choice)
        score = 90.0 if choice.intermediate == "none" else 10.0  # so that TPE prefers the choices without a range
        suggester.learn(
            TrialRecord(f"t{number}", choice, TrialOutcome.COMPLETE, {"dev_score": score}, partial_scores={1: score})
        )
    assert len(set(suggested)) == 40
    assert sum(choice.intermediate == "none" for choice in suggested) == 2
