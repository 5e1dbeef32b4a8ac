"""The search space: what a trial chooses, and which choices are repeated with further seeds."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from study.spec.arms import Arm, Intermediate, NoIntermediate, arm_of

NONE = NoIntermediate.NAME  # the intermediate choice "no intermediate task"


@dataclass(frozen=True)
class LogUniform:
    """A learning rate between two bounds, uniform in its logarithm.

    Two sampled trials never share a stage, as they do on a grid.
    """

    low: float
    high: float
    default: float

    @property
    def valid(self) -> bool:
        return 0 < self.low <= self.default <= self.high < math.inf and self.low < self.high


Rates = tuple[float, ...] | LogUniform


def default_rate(rates: Rates) -> float:
    """The learning rate of the default cells; of a grid the first."""
    return rates.default if isinstance(rates, LogUniform) else rates[0]


def _sample_rate(rates: Rates, rng: random.Random) -> float:
    if isinstance(rates, LogUniform):
        return math.exp(rng.uniform(math.log(rates.low), math.log(rates.high)))
    return rng.choice(rates)


def _different_and_positive(values: tuple[float, ...]) -> bool:
    """Whether there are values, all different, positive and finite."""
    return bool(values) and all(0 < value < math.inf for value in values) and len(set(values)) == len(values)


@dataclass(frozen=True)
class Choice:
    """What a trial chooses; `lr_intermediate` is None where the arm has no use for it, as without an intermediate task.

    `epochs` multiplies the steps of the targets' training. `seed` sets the heads' weights, the data order and dropout, also in
    the intermediate training; None is the study's.
    """

    intermediate: str
    lr_intermediate: float | None
    lr_target: float
    epochs: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Space:
    """The choices of a trial.

    An intermediate choice is none, a task, a mixture of tasks, or another arm (`study.spec.arms`). Learning rates are grids, on
    which trials share stages, or ranges. `epochs` are multiples of the steps that the recipe gives the targets. The first value
    of a grid and of `epochs` is the default. Sampled trials draw their seed from `seeds` and the study's own; the default cells keep the study's. With
    `seeds`, a lucky seed can raise a trial's rank: see `Repeats`.
    """

    intermediates: tuple[Intermediate, ...]
    lr_intermediate: Rates
    lr_target: Rates
    epochs: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The intermediate choices, "none" first."""
        return (NONE, *(task.name for task in self.intermediates))

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the intermediate choices, without "none"."""
        return tuple(map(arm_of, self.intermediates))

    def arm(self, name: str) -> Arm:
        """The arm of an intermediate choice, "none" included.

        Raises:
            KeyError: the space has no such choice.
        """
        return {arm.name: arm for arm in (NoIntermediate(), *self.arms)}[name]

    def defaults(self) -> list[Choice]:
        """Every intermediate choice once, at the default learning rates: the cells of the gains table."""
        return [
            Choice(
                name,
                default_rate(self.lr_intermediate) if self.arm(name).uses_rate else None,
                default_rate(self.lr_target),
                self.epochs[0],
            )
            for name in self.names
        ]

    def is_default(self, choice: Choice) -> bool:
        return choice in self.defaults()

    def grid(self) -> list[Choice] | None:
        """Every choice in a fixed order, the defaults first; None if a learning rate is a range."""
        if isinstance(self.lr_intermediate, LogUniform) or isinstance(self.lr_target, LogUniform):
            return None
        cells = [
            Choice(name, lr_intermediate, lr_target, epochs, seed)
            for name in self.names
            for lr_intermediate in (self.lr_intermediate if self.arm(name).uses_rate else (None,))
            for lr_target in self.lr_target
            for epochs in self.epochs
            for seed in (None, *self.seeds)
        ]
        return list(dict.fromkeys((*self.defaults(), *cells)))

    def sample(self, rng: random.Random) -> Choice:
        """A random choice."""
        name = rng.choice(self.names)
        return Choice(
            name,
            _sample_rate(self.lr_intermediate, rng) if self.arm(name).uses_rate else None,
            _sample_rate(self.lr_target, rng),
            rng.choice(self.epochs),
            rng.choice((None, *self.seeds)),
        )

    @property
    def choice_count(self) -> float:
        """How many different choices there are; infinite if a learning rate is a range."""
        grid = self.grid()
        return math.inf if grid is None else len(grid)

    def errors(self) -> list[str]:
        """Everything that makes the space invalid, by field."""
        errors = []
        for field, rates in (("lr_intermediate", self.lr_intermediate), ("lr_target", self.lr_target)):
            if isinstance(rates, LogUniform):
                if not rates.valid:
                    errors.append(f"space.{field} {rates}: must have 0 < low <= default <= high and low < high")
            elif not _different_and_positive(rates):
                errors.append(
                    f"space.{field} {rates}: must be one or more different, positive and finite learning rates"
                )
        if not _different_and_positive(self.epochs):
            errors.append(
                f"space.epochs {self.epochs}: must be one or more different, positive and finite multiples of the recipe's "
                "steps"
            )
        if len(set(self.seeds)) < len(self.seeds):
            errors.append(f"space.seeds {self.seeds}: must be different")
        return errors


@dataclass(frozen=True)
class Repeats:
    """What runs again with further seeds once a size's search has ended.

    These are its `top` best configurations, whatever seed their trials had, and always the best without an intermediate task,
    the baseline of every gain. Each gets `seeds` further seeds, none of them used in the search: a winner was chosen for its
    score, luck included, and only new seeds show what its choice is worth.
    """

    top: int = 1
    seeds: int = 3


DEFAULT_REPEATS = Repeats()
