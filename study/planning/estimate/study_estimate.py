"""Where a running study is, and how long the rest of it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import median

from study.planning.estimate.benchmarks import BenchmarksLeft, Expected, benchmark_s
from study.planning.estimate.stage_times import Pace, PlannedStage, StageTimes, StoredTimes, planned, usual
from study.planning.estimate.time_left import SizeWork, about, chance_of_target, side_by_side_s
from study.planning.estimate.trials import Trials, predicted_repeats, predicted_search
from study.planning.stages import stages_of
from study.search.slots import Amounts, trial_request
from study.spec import Choice, Size, Study
from trainables.stages.base import Stage

NOMINAL_GFLOPS = 100.0  # of a core that was not measured: then only relations between stages count


@dataclass(frozen=True)
class Snapshot:
    """Stages done and in all, trials ended and in all by size, and the seconds left: None where nothing tells them."""

    stages_done: int
    stages: int
    trials: Mapping[str, tuple[int, int]]
    seconds_left: float | None


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
        self._benchmarks = BenchmarksLeft(study, clock)
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
        """The size's search and repeats are over."""
        with self._lock:
            self._searches[size].close()
            self._repeats[size].close()

    def encoder_failed(self, size: str) -> None:
        """The size is not searched. It is benchmarked all the same if earlier runs of the command finished trials of it."""
        with self._lock:
            if not self._searches[size].ended:
                self._benchmarks.drop(size)
            self.searched(size)

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
        """The size, or the cascade, is benchmarked in this block, which says at the start and after each repeat what is left.

        The arguments are the repeats that are missing, and how many of them score the models. Repeats that are stored take no
        time, and tell nothing of the other sizes.
        """

        def to_measure(repeats: int, scorings: int) -> None:
            with self._lock:
                self._benchmarks.say(repeats, scorings)

        with self._lock:
            self._benchmarks.start(size)
        try:
            yield to_measure
        finally:
            with self._lock:
                self._benchmarks.end(self._benchmark_expected(usual(self.gflops or NOMINAL_GFLOPS)))

    def snapshot(self, running: Mapping[str, float] = {}) -> Snapshot:
        """Where the study is now. `running` holds the share done of running stages, by label."""
        with self._lock:
            measured = self._stored.read()
            pace = usual(self.gflops or NOMINAL_GFLOPS)
            known = {stage.name for stage in self._all_stages()}
            done = len(known & measured.keys())
            to_come: dict[str, float] = {}
            for size in self._study.sizes:
                to_come |= {
                    name: chance
                    for name, (_, chance) in self._missing(size, measured, self._choices_left(size)).items()
                }
                to_come |= {stage.name: 1.0 for stage in self._encoder(size) if stage.name not in measured}
            trials = {
                name: (len(search.ended), len(search.choices))
                for name, search in self._searches.items()
                if search.choices
            }
            basis = self.gflops is not None or self._times(pace, measured).knows("target")
            left = self._left(pace, measured, running) if basis else None
            return Snapshot(done, done + round(sum(to_come.values())), trials, left)

    def trial_seconds(self) -> Callable[[str, Choice], float]:
        """Tells the seconds of what a trial of a size still has to train and score, as of now."""
        with self._lock:
            measured = self._stored.read()
            times = self._times(usual(self.gflops or NOMINAL_GFLOPS), measured)

        def seconds(size: str, choice: Choice) -> float:
            with self._lock:
                missing = self._missing(self._study.size(size), measured, [choice])
            return sum(times.seconds(stage) for stage, _ in missing.values())

        return seconds

    def to_end(self, size: str, choice: Choice, *, per_hour: Mapping[str, float] | None = None) -> float | None:
        """Seconds from now to the study's end if nothing else starts but this trial, or what that costs.

        What runs goes on, the default cells still run, and so do repeats, benchmarks and the report. Where the trial is a
        default cell, the others do not count, nor repeats of choices that were not tried: each is asked for by itself.
        `per_hour` is the price of an hour of each size, of a trial or a benchmark, and of the cascade. None while nothing
        tells how long trials take here.
        """
        with self._lock:
            measured, pace = self._stored.read(), usual(self.gflops or NOMINAL_GFLOPS)
            times = self._times(pace, measured)
            if self.gflops is None and not times.knows("target"):
                return None
            work = {}
            is_default = choice in self._study.space_of(self._study.size(size)).defaults()
            for each in self._study.sizes:
                search, repeats = self._searches[each.name], self._repeats[each.name].left
                started = [other for other in search.started if other not in search.ended]
                cells = [] if search.closed or is_default else self._study.space_of(each).defaults()
                if is_default and not search.closed:
                    tried = {*search.started, *search.ended, *([choice] if each.name == size else [])}
                    repeats = [repeat for repeat in repeats if replace(repeat, seed=choice.seed) in tried]
                defaults = [cell for cell in cells if cell not in search.started]
                choices = [*started, *defaults, *([choice] if each.name == size else []), *repeats]
                work[each.name] = self._work(each, times, pace, measured, {}, list(dict.fromkeys(choices)))
            benchmarks_s = self._benchmarks.seconds(self._benchmark_expected(pace))
            if per_hour is not None:
                trials_s = {name: of_size.seconds for name, of_size in work.items()}
                parts = (*trials_s.items(), *benchmarks_s.items())
                return sum(per_hour[name] * seconds / 3600 for name, seconds in parts)
            search_s = side_by_side_s(work, self._requests, capacity=self._capacity, limits=self._limits)
            return search_s + sum(benchmarks_s.values()) + pace.report_s

    def spent(self, per_hour: Mapping[str, float]) -> float:
        """What the finished stages of the study cost, at the price of an hour of one trial of each size; without benchmarks."""
        with self._lock:
            measured = self._stored.read()
            stages = {stage.name: size.name for size in self._study.sizes for stage in self._stages_of(size)}
            return sum(per_hour[size] * measured.get(name, 0.0) / 3600 for name, size in stages.items())

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
        search = {
            size.name: self._work(size, times, pace, measured, running, self._choices_left(size))
            for size in self._study.sizes
        }
        search_s = side_by_side_s(search, self._requests, capacity=self._capacity, limits=self._limits)
        benchmarks_s = sum(self._benchmarks.seconds(self._benchmark_expected(pace)).values())
        return self._encoders_s(times, pace, measured, running) + search_s + benchmarks_s + pace.report_s

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

    def _choices_left(self, size: Size) -> list[Choice]:
        return [*self._searches[size.name].left, *self._repeats[size.name].left]

    def _work(
        self,
        size: Size,
        times: StageTimes,
        pace: Pace,
        measured: Mapping[str, float],
        running: Mapping[str, float],
        choices: Sequence[Choice],
    ) -> SizeWork:
        """What so many trials and repeats of the size take."""
        shares_done = dict(running)  # of a label's stages one is running
        seconds = 0.0
        for stage, chance in self._missing(size, measured, choices).values():
            seconds += times.seconds(stage) * max(0.0, chance - shares_done.pop(stage.label, 0.0))
        trials = len(choices)
        assumed = 0.0 if size.resources.inline else pace.launch_s
        overhead_s = median(self._overheads[size.name]) if size.name in self._overheads else assumed
        return SizeWork(trials, seconds + trials * overhead_s)

    def _benchmark_expected(self, pace: Pace) -> Expected:
        """Tells how long a benchmark is expected to take (`benchmark_s`), as of now."""
        times = self._times(pace, self._stored.read())

        def scoring_s(size: Size) -> float:
            default = self._study.space_of(size).defaults()[0]
            return sum(times.seconds(stages[0]) for stages in self._chain(size.name, default))

        return partial(benchmark_s, self._study, pace, scoring_s)

    def _missing(
        self, size: Size, measured: Mapping[str, float], choices: Sequence[Choice]
    ) -> dict[str, tuple[PlannedStage, float]]:
        """Stages that these trials of the size still need, with the highest chance that a trial needs them."""
        encoder = {stage.name for stage in self._encoder(size)}
        missing: dict[str, tuple[PlannedStage, float]] = {}
        for choice in choices:
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
            yield from self._stages_of(size)

    def _stages_of(self, size: Size) -> Iterator[PlannedStage]:
        """Of the encoder, and of all trials and repeats that started or are to come."""
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
