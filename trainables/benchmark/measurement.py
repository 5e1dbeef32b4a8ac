"""What the benchmark says about a model and a serving variant."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.benchmark.interference import Interference


@dataclass(frozen=True)
class Measurement:
    """One variant of one model on one machine. A metric that is None has its reason in `unavailable`.

    `p50_ms` to `p99_ms` and `spread_ms` (interquartile range) are service times of single queries over `samples` of
    them (SingleStream: nearest rank, no waiting in a queue); `throughput_sps` is samples a second at `batch_size`
    (Offline). `valid` is the verdict by scenario and `problems` the reasons where it is False. `peak_memory_mb` (1e6
    bytes) is taken during Offline, less the weights that only the caller holds. `cold_start_ms` is preparing the
    variant and its first query, compilation included (a compiler's cache on disk shortens it).
    """

    variant: str
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    spread_ms: float | None
    throughput_sps: float | None
    batch_size: int
    peak_memory_mb: float | None
    parameters: int
    samples: int
    valid: dict[str, bool]
    problems: dict[str, tuple[str, ...]]
    cold_start_ms: float
    energy_j_per_sample: float | None
    unavailable: dict[str, str]
    interference: Interference
    context: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; `interference` with all its numbers."""
        problems = {scenario: list(reasons) for scenario, reasons in self.problems.items()}
        return {**asdict(self), "problems": problems, "interference": self.interference.as_dict()}
