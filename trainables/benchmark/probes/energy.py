"""Energy of serving, from a counter of joules over windows of several seconds, with the idle power beside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from trainables.benchmark.scenarios.warmup import Clock


@dataclass(frozen=True)
class EnergyRule:
    """Windows of that many seconds, each after a pause in which the device cools down. NVML's counter moves every 20 to 100
    ms (Yang et al. 2024, arXiv 2312.02741), so that a window of 5 s is known to 2%."""

    windows: int = 3
    window_s: float = 5.0
    cool_down_s: float = 2.0

    def __post_init__(self) -> None:
        if self.windows < 1 or self.window_s <= 0 or self.cool_down_s < 0:
            raise ValueError(f"{self}: at least one window, of positive length, and no negative pause")


@dataclass(frozen=True)
class Energy:
    """Joules a sample in each window of serving without a pause, and the power of the device at rest with the model in its
    memory. The idle power is part of the joules: it is not subtracted."""

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
    """`serve` runs its n-th batch and says how many samples it held; None where the counter does not answer."""
    sleep(rule.cool_down_s)
    start_s, start_j = clock(), joules()
    sleep(rule.window_s)
    end_j, idle_s = joules(), clock() - start_s
    if start_j is None or end_j is None:
        return None
    found, number = [], 0
    for _ in range(rule.windows):
        sleep(rule.cool_down_s)
        samples, before_j, start_s = 0, joules(), clock()
        while clock() - start_s < rule.window_s:
            samples += serve(number)
            number += 1
        after_j = joules()
        if before_j is None or after_j is None:
            return None
        found.append((after_j - before_j) / samples)
    return Energy(tuple(found), (end_j - start_j) / idle_s)
