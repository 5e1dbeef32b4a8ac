"""What a search tries next: what was interrupted, every default cell, then what Optuna's TPE proposes and was not tried yet."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from study.search.trial_store import TrialRecord, distributions, parameters
from study.spec.space import Choice, Space

TRIES = 3  # proposals of the sampler before the nearest untried choice is taken in their stead
DRAWS = 1000
_TPE_STATES = {"complete": TrialState.COMPLETE, "stopped_early": TrialState.PRUNED, "failed": TrialState.FAIL}


class Proposer:
    """Proposes choices that were not tried before: on a grid a second trial of the same choice and seed is the same trial.

    The sampler learns in a study of its own in memory. It is seeded anew for every proposal, by the study's seed and the number
    of trials before it, so that a search that was interrupted proposes what it would have without.
    """

    def __init__(
        self, space: Space, seed: int, *, known: Sequence[TrialRecord] = (), running: Sequence[Choice] = ()
    ) -> None:
        self._space, self._seed = space, seed
        self._thinking = optuna.create_study(direction="maximize")
        self._grid = space.grid()
        self._tried: set[Choice] = set()
        self._asked: dict[Choice, optuna.Trial] = {}
        for record in known:
            self._tried.add(record.choice)
            self._add(record)
        for choice in running:
            self._open(choice)

    def propose(self) -> Choice | None:
        """The next choice, taken as running from now on; None when every choice there is was tried."""
        waiting = next((choice for choice in self._space.defaults() if choice not in self._tried), None)
        choice = waiting if waiting is not None else self._sampled()
        if choice is not None and choice not in self._asked:
            self._open(choice)
        return choice

    def learn(self, record: TrialRecord) -> None:
        """What became of a choice that is running."""
        trial = self._asked.pop(record.choice, None)
        if trial is not None:
            self._thinking.tell(trial, state=TrialState.FAIL)  # in its place stands what it came to, with all its rungs
        self._add(record)

    def _sampled(self) -> Choice | None:
        if self._grid is not None and len(self._tried) >= len(self._grid):
            return None
        number = len(self._tried)
        # Conditional parameters want the group decomposition. The default cells are what it starts from.
        self._thinking.sampler = optuna.samplers.TPESampler(
            seed=random.Random(f"{self._seed}|{number}").getrandbits(31),
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=len(self._space.names),
        )
        choice = None
        for _ in range(TRIES):
            trial = self._thinking.ask()
            choice = _suggest(self._space, trial)
            if choice not in self._tried:
                self._tried.add(choice)
                self._asked[choice] = trial
                return choice
            self._thinking.tell(trial, state=TrialState.FAIL)
        assert choice is not None
        return self._drawn(number) if self._grid is None else self._nearest(choice, number)

    def _drawn(self, number: int) -> Choice | None:
        """A random untried choice, where TPE keeps to the few that have no range in them; None if none is found."""
        draw = random.Random(f"{self._seed}|{number}|drawn")
        return next((choice for _ in range(DRAWS) if (choice := self._space.drawn(draw)) not in self._tried), None)

    def _nearest(self, wanted: Choice, number: int) -> Choice:
        """The untried choice that differs from the wanted one in the fewest values; one of several by the seed."""
        untried = [choice for choice in self._grid or () if choice not in self._tried]
        apart = [_apart(choice, wanted) for choice in untried]
        fewest = min(apart)
        nearest = [choice for choice, differing in zip(untried, apart, strict=True) if differing == fewest]
        return random.Random(f"{self._seed}|{number}|nearest").choice(nearest)

    def _open(self, choice: Choice) -> None:
        self._tried.add(choice)
        self._thinking.enqueue_trial(parameters(choice))
        trial = self._thinking.ask(distributions(self._space, choice))
        self._asked[choice] = trial

    def _add(self, record: TrialRecord) -> None:
        found: Mapping[str, BaseDistribution] = distributions(self._space, record.choice)
        values = parameters(record.choice)
        state = _TPE_STATES[record.outcome]
        if state == TrialState.PRUNED and not record.rungs:
            return  # nothing to learn from
        self._thinking.add_trial(
            create_trial(
                state=state,
                value=record.dev_score,
                params={name: values[name] for name in found},
                distributions=dict(found),
                intermediate_values=dict(record.rungs),
            )
        )


def _suggest(space: Space, trial: optuna.Trial) -> Choice:
    """Optuna's define-by-run space: an intermediate's learning rate exists only if there is an intermediate."""
    default = space.defaults()[0]
    values: dict[str, Any] = {"lr_intermediate": None, "epochs": default.epochs, "seed": None}
    values["intermediate"] = trial.suggest_categorical("intermediate", space.names)
    for name, distribution in distributions(space, Choice(values["intermediate"], None, default.lr_target)).items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, distribution.choices)
        elif isinstance(distribution, FloatDistribution):
            values[name] = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    return Choice(**values)


def _apart(one: Choice, other: Choice) -> int:
    return sum(a != b for a, b in zip(vars(one).values(), vars(other).values(), strict=True))
