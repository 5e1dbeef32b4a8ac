"""What the benchmark says about a model and a serving variant."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.benchmark.probes.interference import Interference

# What is a number and may be missing; the median of each is taken over repeats.
METRICS = (
    *("p50_ms", "p90_ms", "p99_ms", "spread_ms"),
    *("server_qps", "server_p99_ms", "server_bound_ms"),
    *("throughput_sps", "batch_size"),
    *("peak_memory_mb", "rss_mb", "gpu_reserved_mb", "gpu_process_mb"),
    *("energy_j_per_sample", "idle_power_w"),
    *("cold_start_ms", "tokenise_p50_ms", "end_to_end_p50_ms", "mean_pieces"),
)
LANGUAGE_METRICS = ("p50_ms", "throughput_sps", "mean_pieces", "pieces_per_word")


@dataclass(frozen=True)
class Measurement:
    """One variant of one model on one machine. A metric that is None has its reason in `unavailable`.

    `p50_ms` to `p99_ms` and `spread_ms` (interquartile range) are service times of single queries over `samples` of them
    (SingleStream: nearest rank, no waiting in a queue). `server_qps` is the highest rate of arrivals at which 99% of the
    answers came within `server_bound_ms`, waiting included, and `server_p99_ms` the p99 at that rate. `throughput_sps` is
    samples a second at `batch_size` (Offline). `valid` is LoadGen's verdict by scenario and `problems` why it is False.

    `peak_memory_mb` (1e6 bytes) is taken during Offline, less the weights that only the caller holds: on a GPU what PyTorch's
    allocator gave out (`gpu_reserved_mb`: had taken from the device; `gpu_process_mb`: what NVML counts for the process; both
    less the same weights), on a CPU the resident set. `rss_mb` is the resident set after it. `cold_start_ms` is loading the
    model, preparing the variant and its first query, compilation included (a compiler's cache on disk shortens it).

    `tokenise_p50_ms` is one query's text to token ids, `end_to_end_p50_ms` text to logits. `mean_pieces` are tokens a query,
    special ones included, and `pieces_per_word` those of a word, of texts of a study's task in languages written with spaces.
    `languages` holds `LANGUAGE_METRICS` by language as far as they were measured on enough different
    queries; `unavailable` says under `languages/<metric>` which have too few.
    """

    variant: str
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    spread_ms: float | None
    server_qps: float | None
    server_p99_ms: float | None
    server_bound_ms: float | None
    throughput_sps: float | None
    batch_size: int | None
    peak_memory_mb: float | None
    rss_mb: float
    gpu_reserved_mb: float | None
    gpu_process_mb: float | None
    energy_j_per_sample: float | None
    idle_power_w: float | None
    cold_start_ms: float
    tokenise_p50_ms: float | None
    end_to_end_p50_ms: float | None
    mean_pieces: float
    parameters: int
    samples: int
    languages: dict[str, dict[str, float]]
    valid: dict[str, bool]
    problems: dict[str, tuple[str, ...]]
    unavailable: dict[str, str]
    interference: Interference
    context: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; `interference` with all its numbers."""
        problems = {scenario: list(reasons) for scenario, reasons in self.problems.items()}
        interference = {**self.interference.as_dict(), "text": str(self.interference)}
        return {**asdict(self), "problems": problems, "interference": interference}
