"""How many trials of each size run at once, when sizes search side by side."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from study.cluster.packing import Packing, Placement
from study.spec import Size
from trainables.resources import WAITING_BYTES, worker_request

Amounts = Mapping[str, float]  # of CPU, GPU, GPU:<accelerator type> and memory in bytes
TOLERANCE = 1e-9  # of sums of fractional resources
POLL_S = 1.0


def trial_request(size: Size) -> dict[str, float]:
    """The resources of one trial over all its workers: CPU, GPU, and GPU:<type> and memory where the size asks for them."""
    resources = size.resources
    worker = worker_request(resources)
    request = {name: resources.workers * float(worker.get(name, 0)) for name in ("CPU", "GPU")}
    if request["GPU"] and resources.accelerator_type:
        request[f"GPU:{resources.accelerator_type}"] = request["GPU"]
    if memory := resources.workers * float(worker.get("memory", 0)):
        request["memory"] = memory + (0 if resources.inline else WAITING_BYTES)
    return request


def shares(
    capacity: Amounts, requests: Mapping[str, Amounts], *, wanted: Mapping[str, int], packing: Packing | None = None
) -> dict[str, int]:
    """The slots of each search: one trial to each in turn, as long as it fits and the search wants more.

    Args:
        requests: the resources of one trial, by search.
        wanted: the most trials that a search can use, by search.
        packing: the cluster's nodes, still without trials; None counts the capacity of all nodes together.
    """
    slots = dict.fromkeys(requests, 0)
    free = dict(capacity)
    progress = True
    while progress:
        progress = False
        for name, request in requests.items():
            if slots[name] < wanted[name] and _fits(request, free) and (packing is None or packing.place(name)):
                slots[name] += 1
                progress = True
                for resource, amount in request.items():
                    free[resource] = free.get(resource, 0.0) - amount
    return slots


def _fits(request: Amounts, free: Amounts) -> bool:
    return all(free.get(name, 0.0) + TOLERANCE >= amount for name, amount in request.items() if amount)


@dataclass
class Slots:
    """The resources of the cluster, shared by the searches of one driver, each in a thread of its own.

    A search is admitted when one trial of it fits next to one trial of each admitted search, so no admitted search ever waits
    for another one to end. Admitted searches divide the capacity evenly; the division changes when a search is admitted,
    leaves, or has fewer trials left than its share.

    `limits` bounds a size's trials by what single nodes can hold, where the capacity of all nodes together allows for more.
    `nodes` does the same for the trials of several sizes at once: it returns the cluster's nodes without any trials. What runs
    is also followed on such nodes: what ended trials leave free on different cards may hold no other trial.
    """

    capacity: Amounts
    limits: Mapping[str, int] = field(default_factory=dict)
    nodes: Callable[[], Packing] | None = None
    _requests: dict[str, Amounts] = field(default_factory=dict)
    _remaining: dict[str, int] = field(default_factory=dict)  # trials that have not started, by search
    _running: dict[str, int] = field(default_factory=dict)
    _placed: dict[str, dict[str, Placement]] = field(default_factory=dict)  # what runs, by search and trial
    _occupied: Packing | None = field(default=None, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        if self.nodes is not None:
            self._occupied = self.nodes()

    @contextmanager
    def admitted(
        self, name: str, request: Amounts, *, trials: int, until: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Wait until a search of so many trials can be admitted. It leaves at the end of the block. `until` ends the wait.

        A trial that asks for more of a resource than the capacity counts as asking for all of it. Whether such a trial can run
        is checked elsewhere.
        """
        request = {name: min(amount, self.capacity.get(name, amount)) for name, amount in request.items()}
        with self._changed:
            while not (self._can_admit(name, request) or until()):
                self._changed.wait(timeout=POLL_S)
            self._requests[name], self._remaining[name], self._running[name] = request, trials, 0
            self._placed[name] = {}
        try:
            yield
        finally:
            with self._changed:
                for trial in list(self._placed[name]):
                    self._remove(name, trial)
                del self._requests[name], self._remaining[name], self._running[name], self._placed[name]
                self._changed.notify_all()

    def acquire(self, name: str, trial: str, *, alone: bool = False) -> bool:
        """Take a slot for one more trial of the search, by its id; False if it has none left now.

        `alone`: no other search wants more than it runs, so this one's share is all that is left.
        """
        with self._changed:
            wanted = {
                search: min(
                    self._running[search] + (0 if alone and search != name else self._remaining[search]),
                    self.limits.get(search, sys.maxsize),
                )
                for search in self._requests
            }
            packing = None if self.nodes is None else self.nodes()
            share = shares(self.capacity, self._requests, wanted=wanted, packing=packing)[name]
            idle = not any(self._running.values())
            if idle:  # on an idle cluster one trial starts, whatever the packing makes of it
                share = max(share, 1)
            if self._running[name] >= share or not _fits(self._requests[name], self._free()):
                return False
            placement = None if self._occupied is None else self._occupied.place(name)
            if placement is not None:
                self._placed[name][trial] = placement
            elif self._occupied is not None and not idle:
                return False
            self._running[name] += 1
            self._remaining[name] -= 1
            return True

    def release(self, name: str, trial: str) -> None:
        """Return the slot of a trial that has ended."""
        with self._changed:
            self._running[name] -= 1
            self._remove(name, trial)
            self._changed.notify_all()

    def _remove(self, name: str, trial: str) -> None:
        placement = self._placed[name].pop(trial, None)
        if self._occupied is not None and placement is not None:
            self._occupied.remove(placement)

    def _can_admit(self, name: str, request: Amounts) -> bool:
        requests = [*self._requests.values(), request]
        needed = {name: sum(each.get(name, 0.0) for each in requests) for each in requests for name in each}
        if not _fits(needed, self.capacity):
            return False
        packing = None if self.nodes is None else self.nodes()
        # A search that is alone is admitted however its trial compares with the nodes, as with the capacity.
        return not self._requests or packing is None or all(map(packing.place, [*self._requests, name]))

    def _free(self) -> dict[str, float]:
        free = dict(self.capacity)
        for name, request in self._requests.items():
            for resource, amount in request.items():
                free[resource] = free.get(resource, 0.0) - amount * self._running[name]
        return free
