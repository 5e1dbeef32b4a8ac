"""Where a running study is, and how long the rest of it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median

from study.planning.stage_times import Pace, PlannedStage, StageTimes, StoredTimes, planned, usual
from study.planning.stages import stages_of
from study.planning.time_left import SizeWork, about, chance_of_target, side_by_side_s
from study.search.slots import Amounts, trial_request
from study.spec import Choice, Size, Study
from trainables.benchmark.variants import AS_EVALUATED, variant_named
from trainables.stages.base import Stage

OVERDUE_SHARE = 0.2
NOMINAL_GFLOPS = 100.0  # of a core that was not measured: then only relations between stages count


@dataclass(frozen=True)
class Snapshot:
    """Stages done and in all, trials ended and in all by size, and the seconds left: None where nothing tells them."""

    stages_done: int
    stages: int
    trials: Mapping[str, tuple[int, int]]
    seconds_left: float | None


@dataclass
class Trials:
    """The trials of a size's search, or its repeats: those that started, and predictions of those to come."""

    predicted: list[Choice]
    started: list[Choice] = field(default_factory=list)
    ended: set[Choice] = field(default_factory=set)

    @property
    def choices(self) -> list[Choice]:
        """As many as were predicted: what started, then predictions."""
        to_come = [choice for choice in self.predicted if choice not in self.started]
        return self.started + to_come[: max(0, len(self.predicted) - len(self.started))]

    @property
    def left(self) -> list[Choice]:
        return [choice for choice in self.choices if choice not in self.ended]

    def start(self, choice: Choice) -> None:
        if choice not in self.started:
            self.started.append(choice)

    def end(self, choice: Choice) -> None:
        self.start(choice)
        self.ended.add(choice)

    def close(self) -> None:
        """Nothing else will start."""
        self.predicted, self.ended = list(self.started), set(self.started)


def predicted_search(study: Study, size: Size) -> list[Choice]:
    """The choices that a search will try: its default cells, then random ones in the place of Optuna's."""
    space, rng = study.space_of(size), random.Random(study.seed)
    choices = space.defaults()
    grid = space.grid()
    others = [choice for choice in grid or () if choice not in choices]
    sampled = study.budget(size) - len(choices)
    return choices + (rng.sample(others, sampled) if grid else [space.sample(rng) for _ in range(sampled)])


def predicted_repeats(study: Study, size: Size) -> list[Choice]:
    """Repeats of as many default cells as there will be winners, the one without an intermediate task included."""
    if study.repeats is None:
        return []
    winners = study.space_of(size).defaults()[: study.repeats.top + 1]
    return [repeat for choice in winners for repeat in study.repeats_of(choice)]


class StudyEstimate:
    """What a study has done and how long the rest takes. The driver's threads tell it of trials and phases.

    Stages in the store cost nothing, and tell how long others take.
    """

    def __init__(
        self,
        study: Study,
        output: Path,
        *,
        capacity: Amounts,
        gflops: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`capacity` counts until `on_cluster` is called.

        `gflops` is the measured rate of a core; None where the study trains elsewhere, or on GPUs.
        """
        self.gflops = gflops
        self._study, self._clock = study, clock
        self._lock = threading.RLock()
        self._stored = StoredTimes(output)
        self._searches = {size.name: Trials(predicted_search(study, size)) for size in study.sizes}
        self._repeats = {size.name: Trials(predicted_repeats(study, size)) for size in study.sizes}
        self._to_benchmark = {size.name for size in study.sizes}
        # A size, since when, and the repeats and scorings that were left then; None before it is known.
        self._benchmarking: tuple[str, float, tuple[int, int] | None] | None = None
        self._benchmark_factors: list[float] = []  # seconds that finished ones took over those expected
        self._trial_starts: dict[tuple[str, Choice], tuple[float, frozenset[str]]] = {}
        self._overheads: dict[str, list[float]] = {}  # seconds of a trial outside its stages, by size
        self._planned = lru_cache(maxsize=None)(self._plan)
        self._chain = lru_cache(maxsize=None)(self._plan_chain)
        # Only the cluster tells how much memory there is.
        self.on_cluster([_without_memory(size) for size in study.sizes], capacity)

    def on_cluster(self, sizes: Iterable[Size], capacity: Amounts, *, limits: Mapping[str, int] = {}) -> None:
        """The study runs on this capacity, with the requests of these sizes; arguments as those of `Slots`."""
        with self._lock:
            self._requests = {size.name: trial_request(size) for size in sizes}
            self._capacity, self._limits = capacity, limits

    def resume(self, size: str, search: Iterable[Choice], repeats: Iterable[Choice]) -> None:
        """Trials and repeats that earlier runs of the command finished."""
        with self._lock:
            for choice in search:
                self._searches[size].end(choice)
            for choice in repeats:
                self._repeats[size].end(choice)

    def repeating(self, size: str, repeats: Iterable[Choice]) -> None:
        """The size's search is over, and these are its repeats."""
        with self._lock:
            self._searches[size].close()
            self._repeats[size].predicted = list(repeats)
            self._repeats[size].started = [choice for choice in self._repeats[size].started if choice in repeats]

    def searched(self, size: str) -> None:
        """The size's search and repeats are over, or its encoder failed."""
        with self._lock:
            self._searches[size].close()
            self._repeats[size].close()

    def trial_started(self, size: str, choice: Choice) -> None:
        with self._lock:
            self._trials(size, choice).start(choice)
            self._trial_starts[size, choice] = self._clock(), frozenset(self._stored.read())

    def trial_ended(self, size: str, choice: Choice) -> None:
        with self._lock:
            self._trials(size, choice).end(choice)
            started_s, before = self._trial_starts.pop((size, choice), (None, frozenset()))
            if started_s is not None:
                measured = self._stored.read()
                own = {stage.name for stages in self._chain(size, choice) for stage in stages} - before
                in_stages = sum(measured.get(name, 0.0) for name in own)
                overhead = max(0.0, self._clock() - started_s - in_stages)
                self._overheads.setdefault(size, []).append(overhead)

    @contextlib.contextmanager
    def benchmark_of(self, size: str) -> Iterator[Callable[[int, int], None]]:
        """The size is benchmarked in this block, which says at the start and after each repeat what is left.

        The arguments are the repeats that are missing, and how many of them score the models. Repeats that are stored take no
        time, and tell nothing of the other sizes.
        """
        first: tuple[int, int] | None = None
        started_s = self._clock()

        def to_measure(repeats: int, scorings: int) -> None:
            nonlocal first
            with self._lock:
                first = first or (repeats, scorings)
                self._benchmarking = size, self._clock(), (repeats, scorings)

        with self._lock:
            self._benchmarking = size, started_s, None
        try:
            yield to_measure
        finally:
            with self._lock:
                _, ended_s, left = self._benchmarking or (size, started_s, None)
                self._to_benchmark.discard(size)
                self._benchmarking = None
                if first is not None and left is not None and first != left:
                    pace = usual(self.gflops or NOMINAL_GFLOPS)
                    done = (first[0] - left[0], first[1] - left[1])
                    expected_s = self._size_benchmark_s(size, pace, done)
                    self._benchmark_factors.append((ended_s - started_s) / expected_s)

    def snapshot(self, running: Mapping[str, float] = {}) -> Snapshot:
        """Where the study is now. `running` holds the share done of running stages, by label."""
        with self._lock:
            measured = self._stored.read()
            pace = usual(self.gflops or NOMINAL_GFLOPS)
            known = {stage.name for stage in self._all_stages()}
            done = len(known & measured.keys())
            to_come: dict[str, float] = {}
            for size in self._study.sizes:
                to_come |= {name: chance for name, (_, chance) in self._missing(size, measured).items()}
                to_come |= {stage.name: 1.0 for stage in self._encoder(size) if stage.name not in measured}
            trials = {
                name: (len(search.ended), len(search.choices))
                for name, search in self._searches.items()
                if search.choices
            }
            basis = self.gflops is not None or self._times(pace, measured).knows("target")
            left = self._left(pace, measured, running) if basis else None
            return Snapshot(done, done + round(sum(to_come.values())), trials, left)

    def time_left(self) -> str:
        """The time left in words; empty where nothing tells it."""
        seconds = self.snapshot().seconds_left
        return "" if seconds is None else f"{about(seconds)} left"

    def range_s(self, fast: Pace, slow: Pace) -> tuple[float, float] | None:
        """The shortest and the longest that the study is likely to take from its start; None where nothing tells."""
        with self._lock:
            measured = self._stored.read()
            if self.gflops is None and not self._times(slow, measured).knows("target"):
                return None
            low, high = self._left(fast, measured, {}), self._left(slow, measured, {})
        return min(low, high) + fast.start_s, max(low, high) + slow.start_s

    def _left(self, pace: Pace, measured: Mapping[str, float], running: Mapping[str, float]) -> float:
        times = self._times(pace, measured)
        search = {size.name: self._search_work(size, times, pace, measured, running) for size in self._study.sizes}
        search_s = side_by_side_s(search, self._requests, capacity=self._capacity, limits=self._limits)
        return self._encoders_s(times, pace, measured, running) + search_s + self._benchmark_s(pace) + pace.report_s

    def _encoders_s(
        self, times: StageTimes, pace: Pace, measured: Mapping[str, float], running: Mapping[str, float]
    ) -> float:
        """Encoders of one process are prepared side by side, then those of groups one by one."""
        inline: list[float] = []
        groups_s = 0.0
        for size in self._study.sizes:
            missing = [stage for stage in self._encoder(size) if stage.name not in measured]
            seconds = sum(times.seconds(stage) * (1 - running.get(stage.label, 0.0)) for stage in missing)
            if self._study.encoder_resources(size).inline:
                inline.append(seconds)
            elif missing:
                groups_s += seconds + pace.launch_s
        return max(sum(inline) / max(1.0, self._capacity.get("CPU", 1.0)), max(inline, default=0.0)) + groups_s

    def _search_work(
        self,
        size: Size,
        times: StageTimes,
        pace: Pace,
        measured: Mapping[str, float],
        running: Mapping[str, float],
    ) -> SizeWork:
        shares_done = dict(running)  # of a label's stages one is running
        seconds = 0.0
        for stage, chance in self._missing(size, measured).values():
            seconds += times.seconds(stage) * max(0.0, chance - shares_done.pop(stage.label, 0.0))
        trials = len(self._searches[size.name].left) + len(self._repeats[size.name].left)
        assumed = 0.0 if size.resources.inline else pace.launch_s
        overhead_s = median(self._overheads[size.name]) if size.name in self._overheads else assumed
        return SizeWork(trials, seconds + trials * overhead_s)

    def _benchmark_s(self, pace: Pace) -> float:
        """All benchmarks to come: as long as expected, times how much longer the finished ones took.

        One that is overdue goes on for a fifth of what it has taken: a guess, but never "soon" for minutes.
        """
        factor = median(self._benchmark_factors) if self._benchmark_factors else 1.0
        left = {name: self._size_benchmark_s(name, pace) * factor for name in self._to_benchmark}
        if self._benchmarking is not None:
            name, since_s, to_measure = self._benchmarking
            expected_s = left[name] if to_measure is None else self._size_benchmark_s(name, pace, to_measure) * factor
            spent_s = self._clock() - since_s
            left[name] = max(expected_s - spent_s, OVERDUE_SHARE * spent_s)
        return sum(left.values())

    def _size_benchmark_s(self, name: str, pace: Pace, to_measure: tuple[int, int] | None = None) -> float:
        """The repeats, and for those that score, an evaluation of the best trial and of the best one without a task.

        `to_measure` has the number of both; None for a whole benchmark.
        """
        plan, size = self._study.benchmark, self._study.size(name)
        scored = sum(type(variant_named(variant)) not in AS_EVALUATED for variant in plan.variants)
        repeats, scorings = to_measure or (plan.repeats * len(plan.variants), scored)
        if not repeats:
            return 0.0
        settings = plan.resolved_settings()
        windows = {"Server": settings.probes * settings.probe_s}
        window_s = sum(windows.get(scenario, settings.min_duration_s) for scenario in settings.scenarios)
        times = self._times(pace, self._stored.read())
        best = self._study.space_of(size).defaults()[0]
        scoring_s = sum(times.seconds(stages[0]) for stages in self._chain(name, best))
        chains = 2 if self._study.space_of(size).intermediates else 1
        return repeats * (pace.windows * window_s + pace.benchmark_s) + scorings * chains * scoring_s

    def _missing(self, size: Size, measured: Mapping[str, float]) -> dict[str, tuple[PlannedStage, float]]:
        """Stages that the size's trials still need, with the highest chance that a trial needs them."""
        encoder = {stage.name for stage in self._encoder(size)}
        missing: dict[str, tuple[PlannedStage, float]] = {}
        for choice in itertools.chain(self._searches[size.name].left, self._repeats[size.name].left):
            for index, stages in enumerate(self._chain(size.name, choice)):
                chance = chance_of_target(self._study, size, choice, index)
                for stage in stages:
                    if stage.name not in measured and stage.name not in encoder:
                        _, other = missing.get(stage.name, (stage, 0.0))
                        missing[stage.name] = stage, max(chance, other)
        return missing

    def _times(self, pace: Pace, measured: Mapping[str, float]) -> StageTimes:
        return StageTimes(pace, self._all_stages(), measured)

    def _all_stages(self) -> Iterator[PlannedStage]:
        for size in self._study.sizes:
            yield from self._encoder(size)
            for trials in (self._searches[size.name], self._repeats[size.name]):
                for choice in trials.choices:
                    yield from itertools.chain(*self._chain(size.name, choice))

    def _encoder(self, size: Size) -> list[PlannedStage]:
        stages = itertools.chain(*map(stages_of, self._study.encoder_stages(size)))
        return [self._planned(size.name, stage) for stage in dict.fromkeys(stages)]

    def _plan(self, size: str, stage: Stage) -> PlannedStage:
        return planned(self._study, self._study.size(size), stage)

    def _plan_chain(self, size: str, choice: Choice) -> list[list[PlannedStage]]:
        """For each target, the stages that its score needs."""
        chain = self._study.chain(self._study.size(size), choice)
        return [[self._planned(size, stage) for stage in dict.fromkeys(stages_of(leaf))] for leaf in chain]

    def _trials(self, size: str, choice: Choice) -> Trials:
        """The search's trials, or the repeats: their seeds are others."""
        return self._repeats[size] if choice in self._repeats[size].predicted else self._searches[size]


def _without_memory(size: Size) -> Size:
    return dataclasses.replace(size, resources=dataclasses.replace(size.resources, memory_gb=None))
