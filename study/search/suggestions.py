"""What a search tries next: every default cell, then what Optuna's TPE suggests and was not tried before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from study.search.records import TrialRecord
from study.search.trial_store import STATES, distributions, parameters
from study.spec.space import Choice, Space

SAMPLER_TRIES = 3  # suggestions of the sampler that were tried before, until another way is taken
RANDOM_DRAWS = 1000


class Suggester:
    """Suggests choices that were not tried before: running a choice with the same seed again gives the same result.

    The sampler works on an Optuna study in memory. It is re-seeded for every suggestion, with the study's seed and the number
    of earlier trials, so a resumed search suggests what an uninterrupted one would.
    """

    def __init__(
        self, space: Space, seed: int, *, known: Sequence[TrialRecord] = (), running: Sequence[Choice] = ()
    ) -> None:
        self._space, self._seed = space, seed
        self._study = optuna.create_study(direction="maximize")
        self._grid = space.grid()
        self._tried: set[Choice] = set()
        self._running: dict[Choice, optuna.Trial] = {}
        for record in known:
            self._tried.add(record.choice)
            self._add(record)
        for choice in running:
            self._mark_running(choice)

    def suggest(self) -> Choice | None:
        """The next choice, which counts as running from now on; None when every choice of the space was tried."""
        choice = next((default for default in self._space.defaults() if default not in self._tried), None)
        if choice is None:
            choice = self._sampled()
        if choice is not None and choice not in self._running:
            self._mark_running(choice)
        return choice

    def learn(self, record: TrialRecord) -> None:
        """Tell the sampler how a running choice ended."""
        trial = self._running.pop(record.choice, None)
        if trial is not None:
            self._study.tell(trial, state=TrialState.FAIL)  # replaced by a trial with all its partial scores
        self._add(record)

    def _sampled(self) -> Choice | None:
        if self._grid is not None and len(self._tried) >= len(self._grid):
            return None
        number = len(self._tried)
        # `group` is required where a parameter is conditional. The default cells are the start-up trials.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=random.Random(f"{self._seed}|{number}").getrandbits(31),
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=len(self._space.names),
        )
        choice = None
        for _ in range(SAMPLER_TRIES):
            trial = self._study.ask()
            choice = _sample(self._space, trial)
            if choice not in self._tried:
                self._tried.add(choice)
                self._running[choice] = trial
                return choice
            self._study.tell(trial, state=TrialState.FAIL)
        assert choice is not None
        return self._random(number) if self._grid is None else self._nearest(choice, number)

    def _random(self, number: int) -> Choice | None:
        """A random untried choice, for a space with ranges where TPE keeps to the few choices without; None if none is hit."""
        draw = random.Random(f"{self._seed}|{number}|drawn")
        draws = (self._space.sample(draw) for _ in range(RANDOM_DRAWS))
        return next((choice for choice in draws if choice not in self._tried), None)

    def _nearest(self, wanted: Choice, number: int) -> Choice:
        """The untried choice of the grid that differs from the wanted one in the fewest values; ties are broken by the seed."""
        untried = [choice for choice in self._grid or () if choice not in self._tried]
        distances = [_distance(choice, wanted) for choice in untried]
        fewest = min(distances)
        nearest = [choice for choice, distance in zip(untried, distances, strict=True) if distance == fewest]
        return random.Random(f"{self._seed}|{number}|nearest").choice(nearest)

    def _mark_running(self, choice: Choice) -> None:
        self._tried.add(choice)
        self._study.enqueue_trial(parameters(choice))
        self._running[choice] = self._study.ask(distributions(self._space, choice))

    def _add(self, record: TrialRecord) -> None:
        state = STATES[record.outcome]
        if state == TrialState.PRUNED and not record.partial_scores:
            return  # nothing to learn from
        applicable, values = distributions(self._space, record.choice), parameters(record.choice)
        self._study.add_trial(
            create_trial(
                state=state,
                value=record.dev_score,
                params={name: values[name] for name in applicable},
                distributions=applicable,
                intermediate_values=dict(record.partial_scores),
            )
        )


def _sample(space: Space, trial: optuna.Trial) -> Choice:
    """A choice as the sampler draws it; an intermediate learning rate exists only where the arm uses one."""
    default = space.defaults()[0]
    values: dict[str, Any] = {"lr_intermediate": None, "epochs": default.epochs, "seed": None}
    values["intermediate"] = trial.suggest_categorical("intermediate", space.names)
    for name, distribution in distributions(space, Choice(values["intermediate"], None, default.lr_target)).items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, distribution.choices)
        elif isinstance(distribution, FloatDistribution):
            values[name] = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    return Choice(**values)


def _distance(a: Choice, b: Choice) -> int:
    """In how many values two choices differ."""
    return sum(x != y for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
