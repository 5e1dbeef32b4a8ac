"""Benchmarks that are still to come, and how long they take."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from study.planning.estimate.stage_times import Pace
from study.spec import Size, Study
from trainables.benchmark.measurement import CASCADE
from trainables.benchmark.variants import AS_EVALUATED, variant_named

OVERDUE_SHARE = (
    0.2  # of what an overdue benchmark has taken, which it goes on for: a guess, but never "soon" for minutes
)

ToMeasure = tuple[int, int]  # repeats that are missing, and how many of them score the models
Expected = Callable[
    [str, ToMeasure | None], float
]  # seconds of a size's benchmark, or the `CASCADE`; None for a whole one


def benchmark_s(
    study: Study, pace: Pace, scoring_s: Callable[[Size], float], name: str, to_measure: ToMeasure | None
) -> float:
    """The repeats of a benchmark, and for those that score, an evaluation of the best trial and of the best one without a task.

    A cascade is one variant, which scores a model of each of two sizes: the largest two are assumed.

    Args:
        scoring_s: seconds of the evaluations of one trial of a size.
        name: of the size, or `CASCADE`.
        to_measure: what is missing; None for a whole benchmark.
    """
    plan, cascade = study.benchmark, name == CASCADE
    sizes = study.sizes[-2:] if cascade else (study.size(name),)
    scored = sum(type(variant_named(variant)) not in AS_EVALUATED for variant in plan.variants)
    whole = (plan.repeats, 1) if cascade else (plan.repeats * len(plan.variants), scored)
    repeats, scorings = to_measure or whole
    if not repeats:
        return 0.0
    settings = plan.resolved_settings()
    windows = {"Server": settings.probes * settings.probe_s}
    window_s = sum(windows.get(scenario, settings.min_duration_s) for scenario in settings.scenarios)
    chains = 2 if not cascade and study.space_of(sizes[0]).intermediates else 1
    return repeats * (pace.windows * window_s + pace.benchmark_s) + scorings * chains * sum(map(scoring_s, sizes))


class BenchmarksLeft:
    """The benchmarks to come: each takes as long as expected, times how much longer the finished ones took."""

    def __init__(self, study: Study, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._to_come = {size.name for size in study.sizes} | ({CASCADE} if study.benchmark.cascade else set())
        self._running: str | None = None
        self._first: ToMeasure | None = None  # what the running one had to measure; None before it is known
        self._left: ToMeasure | None = None
        self._started_s = self._said_s = 0.0
        self._factors: list[float] = []  # seconds that finished ones took over those expected

    def start(self, name: str) -> None:
        self._running, self._first, self._left = name, None, None
        self._started_s = self._said_s = self._clock()

    def say(self, repeats: int, scorings: int) -> None:
        """What the running benchmark still has to measure. Repeats that are stored tell nothing of the other sizes."""
        self._left, self._said_s = (repeats, scorings), self._clock()
        self._first = self._first or self._left

    def end(self, expected: Expected) -> None:
        """The running benchmark is over, finished or not: what it measured tells how long the others take."""
        assert self._running is not None
        name, self._running = self._running, None
        self._to_come.discard(name)
        if self._first is None or self._left is None:
            return
        done = (self._first[0] - self._left[0], self._first[1] - self._left[1])
        if done[0] > 0 and done[1] >= 0:  # stored repeats that are measured again make it negative
            self._factors.append((self._said_s - self._started_s) / expected(name, done))

    def drop(self, name: str) -> None:
        """The size has nothing to benchmark; a cascade takes two that have."""
        self._to_come.discard(name)
        if len(self._to_come - {CASCADE}) < 2:
            self._to_come.discard(CASCADE)

    def seconds(self, expected: Expected) -> dict[str, float]:
        """What is left, by size and `CASCADE`."""
        factor = median(self._factors) if self._factors else 1.0
        left = {name: expected(name, None) * factor for name in self._to_come}
        if self._running is not None:
            expected_s = expected(self._running, self._left) * factor
            spent_s = self._clock() - self._said_s
            left[self._running] = max(expected_s - spent_s, OVERDUE_SHARE * spent_s)
        return left
