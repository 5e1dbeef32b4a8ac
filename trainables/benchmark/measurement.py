"""What a measurement comes to: figures, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.benchmark.probes.interference import Interference

# Metrics that may be missing. Repeats are combined by the median of each.
METRICS = (
    *("p50_ms", "p90_ms", "p99_ms", "spread_ms"),
    *("server_qps", "server_p99_ms", "server_bound_ms"),
    *("throughput_sps", "batch_size"),
    *("peak_memory_mb", "rss_mb", "gpu_reserved_mb", "gpu_process_mb"),
    *("energy_j_per_sample", "idle_power_w"),
    *("cold_start_ms", "tokenise_p50_ms", "end_to_end_p50_ms", "mean_pieces"),
)
LANGUAGE_METRICS = ("p50_ms", "throughput_sps", "mean_pieces", "pieces_per_word")
# Shares in percent, of the repeat that is scored (`flips.Flips`). They are not among `METRICS`, which every stored measurement
# has: earlier versions did not compare batches.
FLIPS = ("flips_scored", "flips_batch", "flips_padding")
NOT_COMPARED = "measured by an earlier version, which did not compare batches"
NO_DECISION = "no test example of any target has a reference answer, so there is nothing to compare"
CASCADE = "cascade"  # a serving variant's name, and the key of what its measurement says about it
ALL_WEIGHTS, RESIDENT_WEIGHTS = "all", "resident pages"  # of the caller's model, subtracted from peak memory
FAILED = "failed: "  # in JSON, marks a failure among the reasons


@dataclass(frozen=True)
class Measurement:
    """A variant of a model, timed on a machine. A metric that is None has its reason in `unavailable`.

    `p50_ms` to `p99_ms` and `spread_ms` (interquartile range) are service times of `samples` single queries (SingleStream:
    nearest rank, without waiting). `server_qps` is the highest rate of arrivals at which 99% of the answers came within
    `server_bound_ms`, waiting included; `server_p99_ms` is the p99 at that rate. `throughput_sps` is samples per second at
    `batch_size` (Offline). `valid` is LoadGen's verdict by scenario, and `problems` says why it is False.

    `peak_memory_mb` (1e6 bytes) is read during Offline, less the weights that only the caller holds. On a GPU it is what
    PyTorch's allocator gave out; `gpu_reserved_mb` is what the allocator reserved and `gpu_process_mb` what NVML counts for the
    process, both less the same weights. On a CPU it is the resident set. `rss_mb` is the resident set after Offline.
    `cold_start_ms` covers loading the model, preparing the variant and its first query, compilation included (a compiler's
    cache on disk shortens it).

    `tokenise_p50_ms` is from the text of a query to token ids, `end_to_end_p50_ms` from text to logits. `mean_pieces` is tokens
    per query, special tokens included. `languages` holds `LANGUAGE_METRICS` by language, as far as there were enough different
    queries; `unavailable` lists the others under `languages/<metric>`. `pieces_per_word` is tokens per word, for languages
    written with spaces.
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
        """JSON values; `interference` includes its text."""
        problems = {scenario: list(reasons) for scenario, reasons in self.problems.items()}
        interference = {**self.interference.as_dict(), "text": str(self.interference)}
        return {**asdict(self), "problems": problems, "interference": interference}


@dataclass(frozen=True)
class Measured:
    """Figures of a subject, from one measurement or from several repeats combined.

    `values` are JSON values under the keys of `Measurement.as_dict`, of the subject, and of `combined`.
    """

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str) -> Any:
        """The value of that name; None if there is none."""
        return self.values.get(name)

    @property
    def scored(self) -> bool:
        return "scores" in self.values

    @property
    def flips(self) -> Mapping[str, float] | Unavailable:
        """`FLIPS` by name, or why they are not known."""
        if not self.scored:
            return Unavailable("nothing was scored")
        if not set(FLIPS) <= self.values.keys():
            return Unavailable(NO_DECISION if "flips" in self.values else NOT_COMPARED)
        return {name: self[name] for name in FLIPS}

    @property
    def disturbed(self) -> bool:
        """Whether other processes may have interfered."""
        return bool(self["interference"]["suspected"])

    @property
    def conditions(self) -> tuple[object, ...]:
        """Machine, device, versions and the rule for peak memory: repeats are comparable only if these agree.

        Earlier versions recorded no rule and subtracted all weights, on every device.
        """
        context = self["context"]
        subtracted = context.get("weights_subtracted", ALL_WEIGHTS)
        return context["hardware"]["summary"], context["device_name"], context["versions"], subtracted


@dataclass(frozen=True)
class Unavailable:
    """The variant cannot run on this machine, or not with this model; trying again changes nothing."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The measurement broke. It may succeed when it is tried again."""

    reason: str


MeasurementOutcome = Measured | Unavailable | Failed


def outcome_to_json(outcome: MeasurementOutcome) -> dict[str, Any] | str:
    """The figures, or the reason as text; that of a failure begins with `FAILED`."""
    match outcome:
        case Measured():
            return dict(outcome.values)
        case Unavailable():
            return outcome.reason
        case Failed():
            return FAILED + outcome.reason
