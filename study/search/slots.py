"""How many trials of each size run at once: sizes search side by side as far as the cluster has room."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from study.spec import Size

Amounts = Mapping[str, float]  # of CPU, GPU and GPU:<accelerator type>


def need_of_worker(size: Size) -> dict[str, float]:
    """What one worker of a size holds: CPU, GPU, and GPU:<type> where it asks for a type."""
    resources = size.resources
    need = {"CPU": float(resources.cpus), "GPU": float(resources.gpus)}
    if resources.gpus and resources.accelerator_type:
        need[f"GPU:{resources.accelerator_type}"] = need["GPU"]
    return need


def need_of(size: Size) -> dict[str, float]:
    """What one trial of a size holds."""
    return {name: amount * size.resources.workers for name, amount in need_of_worker(size).items()}


def fits(need: Amounts, have: Amounts, *, times: int = 1) -> bool:
    """Whether so many of what is needed are there."""
    return all(have.get(name, 0.0) + 1e-9 >= amount * times for name, amount in need.items() if amount)


def shares(have: Amounts, needs: Mapping[str, Amounts], wanted: Mapping[str, int]) -> dict[str, int]:
    """Trials that each size may run at once: dealt out one by one in turn, while they fit and the size wants more."""
    given = dict.fromkeys(needs, 0)
    left = dict(have)
    dealt = True
    while dealt:
        dealt = False
        for name, need in needs.items():
            if given[name] < wanted[name] and fits(need, left):
                given[name] += 1
                dealt = True
                for resource, amount in need.items():
                    left[resource] = left.get(resource, 0.0) - amount
    return given


@dataclass
class Room:
    """What the cluster has, shared by the searches of one driver, each in a thread of its own.

    A search enters when one trial of it fits beside one of each that is in already, so that none that is in ever waits for
    another to end. Those that are in divide the room evenly, anew whenever one comes, goes or has fewer trials left than its
    share. `most` bounds a size's trials by what nodes can hold, where what all have together would be enough for more.
    """

    have: Amounts
    most: Mapping[str, int] = field(default_factory=dict)
    _needs: dict[str, Amounts] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)
    _running: dict[str, int] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def entered(
        self, name: str, need: Amounts, trials: int, *, until: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Wait for room for a search with so many trials to run, and leave at the end. `until` ends the waiting early.

        A trial that needs more than there is of something takes all of it: whether it can run at all is for others to say.
        """
        need = {name: min(amount, self.have.get(name, amount)) for name, amount in need.items()}
        with self._changed:
            while not (self._has_room_for(need) or until()):
                self._changed.wait(timeout=1.0)
            self._needs[name], self._left[name], self._running[name] = need, trials, 0
        try:
            yield
        finally:
            with self._changed:
                del self._needs[name], self._left[name], self._running[name]
                self._changed.notify_all()

    def take(self, name: str) -> bool:
        """Whether one more trial of the search may start now; then it counts as running."""
        with self._changed:
            wanted = {
                one: min(self._running[one] + self._left[one], self.most.get(one, sys.maxsize)) for one in self._needs
            }
            share = shares(self.have, self._needs, wanted)[name]
            if self._running[name] >= share or not fits(self._needs[name], self._free()):
                return False
            self._running[name] += 1
            self._left[name] -= 1
            return True

    def give_back(self, name: str) -> None:
        """One of the search's trials has ended."""
        with self._changed:
            self._running[name] -= 1
            self._changed.notify_all()

    def _has_room_for(self, need: Amounts) -> bool:
        given = shares(self.have, {**self._needs, "": need}, {**dict.fromkeys(self._needs, 1), "": 1})
        return all(count == 1 for count in given.values())

    def _free(self) -> dict[str, float]:
        free = dict(self.have)
        for name, need in self._needs.items():
            for resource, amount in need.items():
                free[resource] = free.get(resource, 0.0) - amount * self._running[name]
        return free
