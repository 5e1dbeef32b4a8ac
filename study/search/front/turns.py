"""Whose turn it is, when the sizes of a study search side by side and every trial goes where the front can move most."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from study.search.front.allocation import Decision, Seconds, SizeState, decide
from study.search.front.posterior import Point
from study.search.trial_store import TrialStore
from study.spec import Size, Study
from study.spec.space import Choice, Space

POLL_S = 1.0
CANDIDATES = 64  # random choices of a space with ranges


class Turns:
    """Decides over the trial stores of all sizes which of them starts a trial, and with which choice.

    Each store is written by the thread of its size alone. A decision is made again when a trial starts or ends.
    """

    def __init__(
        self,
        study: Study,
        stores: Mapping[str, TrialStore],
        *,
        positions: Mapping[str, float],
        seconds: Callable[[], Seconds],
        may_start: Callable[[str, Choice], bool] = lambda size, choice: True,
    ) -> None:
        """Decide for the study's sizes.

        Args:
            positions: log latency by size, or what stands for it.
            seconds: tells what trials still have to train, as of now.
            may_start: whether a trial of a size still fits the study's budget of time or money.
        """
        self._study, self._stores, self._positions, self._seconds = study, stores, positions, seconds
        self._chance = chance_of(study)
        self._may_start = may_start
        self._gone: set[str] = set()
        self._refused = False  # whether the budget has refused a trial that was to run next: then no other starts
        self._lock = threading.Lock()
        self._made: tuple[tuple[tuple[int, int], ...], Decision] | None = None

    def decision(self) -> Decision:
        """Which trial runs next."""
        with self._lock:
            seen = tuple((store.started, len(store.unfinished)) for store in self._stores.values())
            if self._made is None or self._made[0] != seen:
                states = [self._state(self._study.size(name)) for name in self._stores]
                self._made = seen, decide(states, chance=self._chance, seconds=self._seconds())
            return self._made[1]

    def choice(self, size: str) -> Choice | None:
        """The next trial of the size; None while it is not its turn."""
        point = self.decision().next
        return point.choice if point is not None and point.size == size and self._fits(point) else None

    def wait(self, size: str, *, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the size's turn; False when no size gets another trial, or as soon as `until` says so."""
        while not until():
            point = self.decision().next
            if point is not None and not self._fits(point):
                return False
            if point is not None and point.size == size:
                return True
            if point is None and not self._anything_runs():
                return False
            time.sleep(POLL_S)
        return False

    def _fits(self, point: Point) -> bool:
        """Whether the budget allows the trial, and has allowed all before it."""
        self._refused = self._refused or not self._may_start(point.size, point.choice)
        return not self._refused

    def leave(self, size: str) -> None:
        """The size starts nothing else, and what it has not finished is not waited for."""
        with self._lock:
            self._gone.add(size)
            self._made = None

    def _anything_runs(self) -> bool:
        return any(store.unfinished for name, store in self._stores.items() if name not in self._gone)

    def reason(self, size: str) -> str | None:
        """Why the size's search ends now although its budget is not used; None if it does not.

        It ends for good, so not on what a trial that has not finished is expected to score, nor where the budget of time or
        money is what ended the search.
        """
        decision = self.decision()
        if decision.next is not None or self._refused or any(store.unfinished for store in self._stores.values()):
            return None
        return decision.done.get(size)

    def _state(self, size: Size) -> SizeState:
        store, space = self._stores[size.name], self._study.space_of(size)
        over = size.name in self._gone or store.ended is not None
        return SizeState(
            size.name,
            self._positions[size.name],
            store.records,
            list(store.unfinished.values()),
            space.defaults(),
            untried(space, store, self._study.seed),
            0 if over else self._study.budget(size) - store.counted,
        )


def chance_of(study: Study) -> float:
    """The mean English dev score of guesses, in percent."""
    return mean(target.chance() for target in study.targets if target.has_english_dev)


def untried(space: Space, store: TrialStore, seed: int) -> list[Choice]:
    """What may run next: the rest of the grid; of ranges the rest of the default cells, and random choices."""
    tried, grid = store.tried, space.grid()
    if grid is None:
        rng = random.Random(f"{seed}|{len(tried)}|candidates")
        grid = [*space.defaults(), *(space.sample(rng) for _ in range(CANDIDATES))]
    return [choice for choice in dict.fromkeys(grid) if choice not in tried]


def positions_of(
    latencies_ms: Mapping[str, float], parameters: Mapping[str, int], sizes: Sequence[Size]
) -> dict[str, float]:
    """Where the sizes stand by speed: their log latency, or by log parameters where not every latency is known.

    Raises:
        ValueError: a size has neither.
    """
    for known in (latencies_ms, parameters):
        if all(known.get(size.name) for size in sizes):
            return {size.name: math.log(known[size.name]) for size in sizes}
    missing = [size.name for size in sizes if not parameters.get(size.name)]
    raise ValueError(f"neither latency nor parameters are known of {', '.join(missing)}")
