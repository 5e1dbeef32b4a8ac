"""Energy of serving: joules counted over windows of several seconds, and the idle power."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

from trainables.benchmark.scenarios.timing import Clock, calls_within


@dataclass(frozen=True)
class EnergyRule:
    """How many windows of how many seconds, each after a pause to cool down.

    NVML's counter advances every 20 to 100 ms (Yang et al. 2024, arXiv 2312.02741), so the energy of a 5 s window is accurate
    to 2%.
    """

    windows: int = 3
    window_s: float = 5.0
    cool_down_s: float = 2.0

    def __post_init__(self) -> None:
        if self.windows < 1 or self.window_s <= 0 or self.cool_down_s < 0:
            raise ValueError(f"{self}: windows must be at least 1, window_s positive, cool_down_s not negative")


@dataclass(frozen=True)
class Energy:
    """Joules per sample in each window of continuous serving, and the power of the idle device with the model in its memory.

    The joules include the idle power.
    """

    j_per_sample_by_window: tuple[float, ...]
    idle_power_w: float

    @property
    def j_per_sample(self) -> float:
        return median(self.j_per_sample_by_window)


def measure_energy(
    serve: Callable[[int], int],
    rule: EnergyRule,
    *,
    joules: Callable[[], float | None],
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Energy | None:
    """`serve` runs its n-th batch and returns the number of samples in it. None if the counter fails to answer."""
    sleep(rule.cool_down_s)
    start_s, start_j = clock(), joules()
    sleep(rule.window_s)
    end_j, idle_s = joules(), clock() - start_s
    if start_j is None or end_j is None:
        return None
    by_window: list[float] = []
    batches = 0
    for _ in range(rule.windows):
        sleep(rule.cool_down_s)
        before_j = joules()
        calls = calls_within(partial(_serve_from, serve, batches), rule.window_s, clock=clock)
        after_j = joules()
        if before_j is None or after_j is None:
            return None
        batches += len(calls)
        by_window.append((after_j - before_j) / sum(call.result for call in calls))
    return Energy(tuple(by_window), (end_j - start_j) / idle_s)


def _serve_from(serve: Callable[[int], int], first: int, number: int) -> int:
    return serve(first + number)
