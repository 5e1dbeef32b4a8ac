"""The measuring loop: calls one after the other, each of them timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Generic, NamedTuple, TypeVar

from trainables.benchmark.scenarios.percentiles import percentile

Clock = Callable[[], float]
T = TypeVar("T")


class TimedCall(NamedTuple, Generic[T]):
    """How long a call took, in seconds, and what it returned."""

    seconds: float
    result: T


def timed_calls(call: Callable[[int], T], clock: Clock) -> Iterator[TimedCall[T]]:
    """Calls with 0, 1, 2 and so on, as long as the consumer asks for more.

    Consecutive calls share a clock reading, so that their times add up to the time that has passed.
    """
    now = clock()
    for number in count():
        result = call(number)
        before, now = now, clock()
        yield TimedCall(now - before, result)


def calls_within(
    call: Callable[[int], T], seconds: float, *, clock: Clock, at_most: int | None = None
) -> list[TimedCall[T]]:
    """The calls that start within `seconds`, at least one of them, and no more than `at_most`."""
    calls: list[TimedCall[T]] = []
    elapsed_s = 0.0
    for timed in islice(timed_calls(call, clock), at_most):
        calls.append(timed)
        elapsed_s += timed.seconds
        if elapsed_s >= seconds:
            break
    return calls


def median_call_s(call: Callable[[int], object], seconds: float, *, clock: Clock) -> float | None:
    """Median duration of the calls that start within `seconds`; None if they are too few for a median."""
    return percentile([timed.seconds for timed in calls_within(call, seconds, clock=clock)], 50)
