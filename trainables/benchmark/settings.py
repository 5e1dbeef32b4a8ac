"""How long a measurement takes and what it covers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainables.benchmark.probes.energy import EnergyRule
from trainables.benchmark.scenarios.loadgen import LoadSettings
from trainables.benchmark.scenarios.percentiles import FEWEST
from trainables.benchmark.scenarios.rates import CONFIRMATIONS
from trainables.benchmark.scenarios.warmup import WarmUpRule

Scenario = Literal["SingleStream", "Server", "Offline"]
SCENARIOS: tuple[Scenario, ...] = ("SingleStream", "Server", "Offline")
BOUND_MS = 100.0  # of Server's p99: an answer within it feels immediate


@dataclass(frozen=True)
class BenchmarkSettings:
    """How long each scenario runs, how to warm up, and which batch sizes Offline chooses from.

    `min_queries` defaults to what a p99 needs. Server searches for the highest rate whose p99 stays within `bound_ms`. A probe
    takes `probe_s`, or as long as the queries of a p99 take to arrive, and no run of Server exceeds `server_s`.
    `per_language_s` is for the throughput of each language alone, and for the latency of a language that is rare in
    SingleStream. `text_s` is for tokenisation, and again for serving from text.
    """

    min_duration_s: float = 60.0
    min_queries: int = FEWEST[99]
    max_duration_s: float = 240.0
    warm_up: WarmUpRule = field(default_factory=WarmUpRule)
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64, 256)
    sweep_s: float = 2.0  # for each batch size
    scenarios: tuple[Scenario, ...] = SCENARIOS
    bound_ms: float = BOUND_MS
    probe_s: float = 5.0
    probes: int = 10
    per_language_s: float = 1.0
    text_s: float = 2.0
    energy: EnergyRule | None = field(default_factory=EnergyRule)
    seed: int = 0
    server_s: float = 240.0

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1 or self.sweep_s <= 0:
            raise ValueError(
                f"batch_sizes {self.batch_sizes} must be at least 1, and sweep_s {self.sweep_s} must be positive"
            )
        if unknown := set(self.scenarios) - set(SCENARIOS):
            raise ValueError(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
        if not self.scenarios:
            raise ValueError(f"no scenario to run; choose at least one of {', '.join(SCENARIOS)}")
        positive = (self.bound_ms, self.probe_s, self.server_s, self.per_language_s, self.text_s)
        if min(positive) <= 0 or self.probes < 1:
            raise ValueError(
                "bound_ms, probe_s, server_s, per_language_s and text_s must be positive, and probes at least 1"
            )
        self.load()

    @classmethod
    def for_window(
        cls,
        window_s: float,
        seed: int = 0,
        *,
        scenarios: tuple[Scenario, ...] = SCENARIOS,
        bound_ms: float = BOUND_MS,
    ) -> BenchmarkSettings:
        """Settings that measure a variant in about `window_s` seconds for SingleStream and Offline together.

        Languages, compilation, energy and the queries of a p99 come on top. A run of Server lasts until the 662 queries of a
        p99 have arrived, at most five sixths of the window (or 10 s). There are up to ten such runs, fourteen for windows of
        10 s and more.

        Raises:
            ValueError: `window_s` is not positive, or a scenario is unknown.
        """
        if window_s <= 0:
            raise ValueError(f"a window of {window_s} s is not positive")
        short = window_s < 10
        scenario_s = window_s / 2.4  # a sixth of the window is left for warming up and the sweep
        return cls(
            scenario_s,
            FEWEST[90] if short else FEWEST[99],
            max(2 * scenario_s, 1.0),
            WarmUpRule(max_s=min(window_s / 6, 10.0)),
            batch_sizes=(1, 8, 32) if short else (1, 4, 16, 64, 256),
            sweep_s=min(window_s / 20, 2.0),
            scenarios=scenarios,
            bound_ms=bound_ms,
            probe_s=min(window_s / 12, 5.0),
            probes=6 if short else 10,
            per_language_s=min(window_s / 60, 1.0),
            text_s=min(window_s / 20, 2.0),
            energy=None if short else EnergyRule(),
            seed=seed,
            server_s=max(2 * scenario_s, 10.0),
        )

    def load(self) -> LoadSettings:
        """LoadGen's settings for SingleStream and Offline."""
        return LoadSettings(
            self.min_duration_s, self.min_queries, max(self.max_duration_s, self.min_duration_s), self.seed
        )

    def server_load(self, min_duration_s: float, min_queries: int) -> LoadSettings:
        """LoadGen's settings for a run of Server."""
        return LoadSettings(min_duration_s, min_queries, max(self.server_s, min_duration_s), self.seed)

    @property
    def scenarios_s(self) -> float:
        """The longest that all scenarios may take, except for queries in flight when their time is over."""
        runs = {"SingleStream": 1, "Offline": 1, "Server": self.probes + CONFIRMATIONS}
        longest = {name: self.server_s if name == "Server" else self.max_duration_s for name in SCENARIOS}
        return sum(runs[name] * max(longest[name], self.min_duration_s) for name in self.scenarios)


QUICK = BenchmarkSettings.for_window(3.0)
DEFAULT = BenchmarkSettings()
# MLPerf's rule: 600 s a scenario.
STRICT = BenchmarkSettings(
    min_duration_s=600.0, max_duration_s=1800.0, probe_s=20.0, per_language_s=5.0, text_s=10.0, server_s=1800.0
)
