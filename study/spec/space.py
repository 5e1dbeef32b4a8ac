"""What a trial may choose, and what is repeated of what it chose."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from trainables.heads import KINDS
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

NONE = "none"  # the intermediate choice "no intermediate task"


def parts(task: Task | Mixture) -> tuple[Task, ...]:
    """The tasks of a mixture, or the one."""
    return task.tasks if isinstance(task, Mixture) else (task,)


def masks(task: Task | Mixture) -> bool:
    """Whether some of it is masked language modelling."""
    return any(KINDS[one.kind].masks for one in parts(task))


@dataclass(frozen=True)
class LogUniform:
    """A learning rate between two bounds, uniform in its logarithm. No two drawn trials share a stage, as they do on a grid."""

    low: float
    high: float
    default: float

    @property
    def sound(self) -> bool:
        return 0 < self.low <= self.default <= self.high and self.low < self.high


Rates = tuple[float, ...] | LogUniform


def default_of(rates: Rates) -> float:
    """The learning rate of the default cells: the first of a grid."""
    return rates.default if isinstance(rates, LogUniform) else rates[0]


def _drawn(rates: Rates, draw: random.Random) -> float:
    if isinstance(rates, LogUniform):
        return math.exp(draw.uniform(math.log(rates.low), math.log(rates.high)))
    return draw.choice(rates)


@dataclass(frozen=True)
class Choice:
    """What a trial chooses; `lr_intermediate` is None without an intermediate task.

    `epochs` multiplies the steps of the targets' training. `seed` is that of heads, data order and dropout, of the intermediate
    training too; None is the study's.
    """

    intermediate: str
    lr_intermediate: float | None
    lr_target: float
    epochs: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Space:
    """The choices of a trial. Learning rates are grids, so that trials share stages, or ranges; a grid's first value is the
    default, as is the first of `epochs`, multiples of the steps that the recipe gives the targets.

    An intermediate choice is none, a task, or a mixture of tasks. With `seeds` the sampled trials draw theirs from them and the
    study's own; the default cells keep the study's. What a lucky seed adds to a score is in the ranking then: see `Repeats`.
    """

    intermediates: tuple[Task | Mixture, ...]
    lr_intermediate: Rates
    lr_target: Rates
    epochs: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The intermediate choices, "none" first."""
        return (NONE, *(task.name for task in self.intermediates))

    @property
    def masked(self) -> tuple[Task | Mixture, ...]:
        """The intermediate choices with masked language modelling in them."""
        return tuple(choice for choice in self.intermediates if masks(choice))

    def defaults(self) -> list[Choice]:
        """Every intermediate choice once, at the default learning rates: the cells of the gains table."""
        return [
            Choice(
                name,
                None if name == NONE else default_of(self.lr_intermediate),
                default_of(self.lr_target),
                self.epochs[0],
            )
            for name in self.names
        ]

    def is_default(self, choice: Choice) -> bool:
        return choice in self.defaults()

    def grid(self) -> list[Choice] | None:
        """Every choice in a fixed order, the defaults among them; None where some learning rate is a range."""
        if isinstance(self.lr_intermediate, LogUniform) or isinstance(self.lr_target, LogUniform):
            return None
        cells = [
            Choice(name, rate, target, epochs, seed)
            for name in self.names
            for rate in ((None,) if name == NONE else self.lr_intermediate)
            for target in self.lr_target
            for epochs in self.epochs
            for seed in (None, *self.seeds)
        ]
        return list(dict.fromkeys((*self.defaults(), *cells)))

    def drawn(self, draw: random.Random) -> Choice:
        """A random choice."""
        name = draw.choice(self.names)
        return Choice(
            name,
            None if name == NONE else _drawn(self.lr_intermediate, draw),
            _drawn(self.lr_target, draw),
            draw.choice(self.epochs),
            draw.choice((None, *self.seeds)),
        )

    @property
    def points(self) -> float:
        """How many different choices there are; infinitely many of a range."""
        grid = self.grid()
        return math.inf if grid is None else len(grid)

    def errors(self) -> list[str]:
        """What makes no space, by field."""
        errors = []
        for field, rates in (("lr_intermediate", self.lr_intermediate), ("lr_target", self.lr_target)):
            if isinstance(rates, LogUniform):
                if not rates.sound:
                    errors.append(f"space.{field} {rates}: 0 < low <= default <= high, and low < high")
            elif not rates or any(not rate > 0 for rate in rates) or len(set(rates)) < len(rates):
                errors.append(f"space.{field} {rates}: one or more different positive learning rates")
        if not self.epochs or any(not many > 0 for many in self.epochs) or len(set(self.epochs)) < len(self.epochs):
            errors.append(f"space.epochs {self.epochs}: one or more different positive multiples of the recipe's steps")
        if len(set(self.seeds)) < len(self.seeds):
            errors.append(f"space.seeds {self.seeds}: different seeds")
        return errors


@dataclass(frozen=True)
class Repeats:
    """What is run again with seeds of its own, once a size's search has ended: its `top` best configurations, whatever seed
    their trials had, and always the best without an intermediate task, the baseline of every gain. `seeds` is how many further
    seeds each gets, none of them one of the search's.

    A winner was chosen for its score, luck included; only further seeds say what its choice is worth.
    """

    top: int = 1
    seeds: int = 3


USUAL_REPEATS = Repeats()
