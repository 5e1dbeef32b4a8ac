"""Provisional speeds: each size's serving variants, timed on its encoder with an untrained head before the search.

Latency does not depend on what weights were trained to, so the second axis of the front is known before the first trial ends.
It is a short measurement of single queries: what the report shows is measured again, longer, on the model that is scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ray.exceptions import RayError

from study.benchmarking.placement import device_of, placement_of
from study.benchmarking.stored import Method, StoredMeasurements
from study.cluster.node_watch import end_if_lost
from study.console import Console
from study.errors import CannotRun, reason_of
from study.spec import Size, Study
from study.tracking.tracker import Tracker
from trainables.benchmark.actor import NoNode, benchmark_actor
from trainables.benchmark.measurement import Measured, Unavailable
from trainables.benchmark.scenarios.percentiles import FEWEST
from trainables.benchmark.scenarios.warmup import WarmUpRule
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.untrained import UntrainedBenchmark
from trainables.benchmark.variants import variant_named
from trainables.stages.evaluate import Evaluate
from trainables.store.fingerprint import fingerprint

FOLDER = "early"  # in the folder of the benchmarks
PROVISIONAL = "provisional, untrained heads"
# Half a second of single queries a variant, and at least what a median needs: a query of a 10-billion model takes a second.
SETTINGS = BenchmarkSettings(
    min_duration_s=0.5,
    min_queries=FEWEST[50],
    max_duration_s=20.0,
    warm_up=WarmUpRule(max_s=0.3),
    scenarios=("SingleStream",),
    per_language_s=0.01,
    text_s=0.02,
    energy=None,
)


@dataclass(frozen=True)
class UntrainedModel:
    """What is timed early of a size: its encoder with an untrained head of the study's first target."""

    scored: ClassVar[bool] = False
    repeats: ClassVar[int] = 1
    baseline: ClassVar[None] = None
    baseline_fingerprints: ClassVar[tuple[str, ...]] = ()

    study: Study
    size: Size
    output: Path

    @property
    def folder(self) -> Path:
        return self.output / "benchmarks" / FOLDER

    @cached_property
    def evaluate(self) -> Evaluate:
        """The first target's evaluation without an intermediate task: the one whose model the benchmark times."""
        return self.study.chain(self.size, self.study.space.defaults()[0])[0]

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the encoder, and of the queries."""
        return fingerprint(self.study.encoder_stage(self.size)), fingerprint(self.evaluate.features)

    @cached_property
    def method(self) -> Method:
        return Method(SETTINGS, self.study.benchmark.threads, self.study.benchmark.device)

    @property
    def stored(self) -> dict[str, StoredMeasurements]:
        """What is stored, by variant of the plan."""
        variants = map(variant_named, self.study.benchmark.variants)
        return {variant.name: StoredMeasurements(self, variant) for variant in variants}

    def p50_ms(self) -> dict[str, float]:
        """The median latency of a query by variant, of those that were measured; needs no cluster."""
        measured = {name: stored.measured() for name, stored in self.stored.items()}
        return {name: float(repeats[0]["p50_ms"]) for name, repeats in measured.items() if _has_median(repeats)}


def early_wanted(study: Study) -> bool:
    """Whether encoders are timed before the search: the plan says so, or trials go where the front can move.

    What else reads `early_latencies` adds its own condition here, and nowhere else.
    """
    return (study.benchmark.early or study.allocation == "front") and bool(study.benchmark.variants)


def early_latencies(study: Study, output: Path) -> Mapping[str, float]:
    """The p50 of a query in ms, by size: that of the fastest variant that the study plans.

    A size that was not measured yet is missing, and so is one of which no variant could be.
    """
    by_size = {size.name: UntrainedModel(study, size, output).p50_ms() for size in study.sizes}
    return {name: min(by_variant.values()) for name, by_variant in by_size.items() if by_variant}


def time_encoders(
    study: Study, sizes: Sequence[Size], output: Path, *, tracker: Tracker | None, console: Console
) -> Mapping[str, float]:
    """Time what is not stored yet, each size in one actor that has its node to itself; as `early_latencies` afterwards.

    The encoders must be in the store, and no search may run. A failure ends the size's measurement only: what is missing is
    tried again by the next run. MLflow gets `early/p50_ms/<variant>` on the size's run.
    """
    for size in sizes:
        model = UntrainedModel(study, size, output)
        try:
            disturbed = [text for text in _measure(model, console) if text]
        except (RayError, CannotRun, NoNode) as error:
            end_if_lost(error)
            console.say(f"timing the encoder of {size.name} failed: {reason_of(error)}")
            continue
        speeds = model.p50_ms()
        shown = ", ".join(f"{name} {value:.2f} ms" for name, value in speeds.items()) or "no variant can be timed"
        remark = f"; disturbed: {disturbed[0]}" if disturbed else ""
        console.say(f"p50 of {size.name} ({PROVISIONAL}): {shown}{remark}")
        if tracker is not None:
            tracker.metrics(tracker.size(size.name), {f"early/p50_ms/{name}": value for name, value in speeds.items()})
    return early_latencies(study, output)


def _measure(model: UntrainedModel, console: Console) -> Iterator[str]:
    """Measure and store each missing variant; yields what disturbed it ("" for nothing)."""
    plan = model.study.benchmark
    missing = {name: stored for name, stored in model.stored.items() if stored.complete() is None}
    if not missing:
        return
    subject = UntrainedBenchmark(str(model.output.resolve()), model.evaluate, plan.threads, SETTINGS, device_of(plan))
    planned = {variant_named(variant).name: variant for variant in plan.variants}
    with benchmark_actor(subject, label=f"early {model.size.name}", placement=placement_of(plan)) as measure:
        for name, stored in missing.items():
            outcome = measure(planned[name], False)
            if isinstance(outcome, Unavailable):
                console.say(f"{model.size.name} {name} cannot run here: {outcome.reason}")
                stored.save(outcome)
                continue
            stored.save([outcome])
            yield outcome["interference"]["text"] if outcome.disturbed else ""


def _has_median(repeats: Sequence[Measured]) -> bool:
    """Whether there is a measurement with enough queries for a median."""
    return bool(repeats) and repeats[0]["p50_ms"] is not None
