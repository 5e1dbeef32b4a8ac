"""The measuring loop, and warming up."""

from __future__ import annotations

from tests.support.serving import ManualClock
from trainables.benchmark.scenarios.timing import calls_within, median_call_s
from trainables.benchmark.scenarios.warmup import WarmUpRule, warm_up


def test_warming_up_ends_when_service_times_are_stable() -> None:
    clock = ManualClock()
    costs = iter([5.0, 3.0, 2.0, 1.5, *[1.0] * 100])

    def serve(index: int) -> None:
        clock.now += next(costs)

    warmed = warm_up(serve, WarmUpRule(window=3, tolerance=0.1, max_s=1000.0), clock)
    # Queries 4 to 6 are the first window of three whose median is 1; the window after it ends with query 9.
    assert (warmed.queries, warmed.stable, warmed.median_s) == (9, True, 1.0)


def test_warming_up_ends_at_the_cap_if_service_times_never_settle() -> None:
    clock = ManualClock()

    def slower_and_slower(index: int) -> None:
        clock.now = clock.now * 1.5 + 1

    warmed = warm_up(slower_and_slower, WarmUpRule(window=3, tolerance=0.1, max_s=500.0), clock)
    assert not warmed.stable
    assert 500.0 <= warmed.seconds < 1000.0


def test_calls_within_a_time_start_before_its_end_and_add_up_to_what_has_passed() -> None:
    clock = ManualClock()

    def serve(number: int) -> str:
        clock.now += number + 1.0
        return f"answer {number}"

    calls = calls_within(serve, 5.0, clock=clock)  # they start at 0, 1 and 3; the next one would start at 6
    assert [tuple(call) for call in calls] == [(1.0, "answer 0"), (2.0, "answer 1"), (3.0, "answer 2")]
    assert clock.now == 6.0
    assert len(calls_within(serve, 1000.0, clock=clock, at_most=2)) == 2
    assert len(calls_within(serve, 0.5, clock=clock)) == 1, "at least one call"


def test_a_median_needs_eleven_calls() -> None:
    clock = ManualClock()

    def serve(number: int) -> None:
        clock.now += 1.0 if number % 2 else 3.0

    assert median_call_s(serve, 19.0, clock=clock) is None  # ten calls take 20 s
    assert median_call_s(serve, 20.5, clock=clock) == 3.0  # six calls of 3 s, five of 1 s
