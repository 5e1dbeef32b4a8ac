"""What a search tries next: every default cell, then what Optuna's TPE suggests and was not tried before."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from study.search.trial_store import TrialStore, distributions
from study.spec.space import Choice, Space

SAMPLER_TRIES = 3  # suggestions of the sampler that were tried before, until another way is taken
RANDOM_DRAWS = 1000


def suggest(store: TrialStore, seed: int, *, first: Sequence[str] = ()) -> Choice | None:
    """The next choice of a search, which was not tried before; None when every choice of the space was.

    A choice is tried once: with the same seed it would give the same result again. The sampler reads the trial store alone, and
    is seeded with `seed` and the number of choices tried, so a resumed search suggests what an uninterrupted one would. `first`
    has the intermediate choices in the order in which their default cells come; others keep the space's order.
    """
    space, tried = store.space, store.tried
    place = {name: number for number, name in enumerate(first)}
    untried = [choice for choice in space.defaults() if choice not in tried]
    if untried:
        return min(untried, key=lambda choice: place.get(choice.intermediate, len(place)))
    grid = space.grid()
    if grid is not None and len(tried) >= len(grid):
        return None
    number = len(tried)
    search, sampler = store.as_optuna_study(), _sampler(space, _seeded(seed, number).getrandbits(31))
    draws = [_draw(space, search, sampler)]
    while draws[-1] in tried and len(draws) < SAMPLER_TRIES:
        draws.append(_draw(space, search, sampler))
    if draws[-1] not in tried:
        return draws[-1]
    if grid is None:
        return _random(space, tried, _seeded(seed, number, "drawn"))
    return _nearest(grid, tried, draws[-1], _seeded(seed, number, "nearest"))


def _seeded(seed: int, *of: object) -> random.Random:
    return random.Random("|".join(map(str, (seed, *of))))


def _sampler(space: Space, seed: int) -> BaseSampler:
    # `group` is required where a parameter is conditional. The default cells are the start-up trials.
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=len(space.names)
    )


def _draw(space: Space, search: optuna.Study, sampler: BaseSampler) -> Choice:
    """A choice as the sampler draws it; an intermediate learning rate exists only where the arm uses one.

    `optuna.Study.ask` would store a trial for each draw, also for those that were tried before.
    """
    drawn = create_trial(state=TrialState.RUNNING)
    relative = sampler.sample_relative(search, drawn, sampler.infer_relative_search_space(search, drawn))

    def value(name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution) and distribution.single():
            return distribution.choices[0]
        if name in relative:
            return relative[name]
        return sampler.sample_independent(search, drawn, name, distribution)

    default = space.defaults()[0]
    name = value("intermediate", CategoricalDistribution(space.names))
    values: dict[str, Any] = {"lr_intermediate": None, "epochs": default.epochs, "seed": None, "intermediate": name}
    for parameter, distribution in distributions(space, Choice(name, None, default.lr_target)).items():
        if parameter != "intermediate":
            values[parameter] = value(parameter, distribution)
    return Choice(**values)


def _random(space: Space, tried: Collection[Choice], rng: random.Random) -> Choice | None:
    """A random untried choice, for a space with ranges where TPE keeps to the few choices without; None if none is hit."""
    draws = (space.sample(rng) for _ in range(RANDOM_DRAWS))
    return next((choice for choice in draws if choice not in tried), None)


def _nearest(grid: Sequence[Choice], tried: Collection[Choice], wanted: Choice, rng: random.Random) -> Choice:
    """The untried choice of the grid that differs from the wanted one in the fewest values; ties are broken by `rng`."""
    untried = [choice for choice in grid if choice not in tried]
    fewest = min(_distance(choice, wanted) for choice in untried)
    return rng.choice([choice for choice in untried if _distance(choice, wanted) == fewest])


def _distance(a: Choice, b: Choice) -> int:
    """In how many values two choices differ."""
    return sum(x != y for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
