"""The cascade of a study: which pair of sizes is served together, its thresholds, its measurement.

The pair, the serving variant and the thresholds follow from English dev and from the measured speeds of the single models, once
all of these are stored. The prediction is what `analysis.tables.cascades` shows beside the measurement.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from analysis.tables.cascades.prediction import Candidate, Pair, candidates, pair_of
from study.benchmarking.run import ToMeasure, checkpoint_benchmark, measure_size
from study.benchmarking.stored import BestModel, StoredMeasurements
from study.benchmarking.tracking import FORMER, track_outcome
from study.console import Console
from study.search.records import SearchResult
from study.spec import Study
from study.tracking.examples import write_examples
from study.tracking.tracker import Tracker
from trainables.benchmark.measurement import CASCADE, Measured, MeasurementOutcome
from trainables.benchmark.subjects.cascade import CascadeBenchmark, Cascaded
from trainables.benchmark.variants import Variant, variant_named
from trainables.benchmark.variants.cut import Cut
from trainables.store.examples import read_example_scores
from trainables.store.fingerprint import fingerprint


@dataclass(frozen=True, kw_only=True)
class CascadedModel(BestModel):
    """A size's best model, asked by that of a smaller size where its confidence is below a target's threshold.

    Both are served as `served_as`, one of the plan's variants.
    """

    smaller: BestModel
    served_as: str | Variant
    thresholds: tuple[tuple[str, float], ...]
    predicted: Candidate = field(compare=False)

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the evaluations of both sizes, the thresholds, and how the models are served."""
        evaluations = tuple(fingerprint(evaluate) for evaluate in (*self.smaller.chain, *self.chain))
        thresholds = tuple(f"{task}>={value!r}" for task, value in self.thresholds)
        return (*evaluations, *thresholds, variant_named(self.served_as).name)

    @property
    def variants(self) -> dict[str, str | Variant]:
        return {CASCADE: Cascaded(variant_named(self.served_as))}


def cascade_of(study: Study, results: Mapping[str, SearchResult], output: Path) -> CascadedModel | str:
    """The cascade for which English dev and the measured speeds predict most, or the reason why there is none.

    The measurements of every size's variants must be stored; what could not be measured makes no pair.
    """
    plan = study.benchmark.cascade
    if plan is None:
        return "the plan has none"
    found = {size.name: BestModel.of(study, size, result=results[size.name], output=output) for size in study.sizes}
    models = {name: model for name, model in found.items() if model is not None}
    if len(models) < 2:
        return "it takes two sizes with a complete trial"
    pairs = _pairs(models)
    if not pairs:
        return (
            "no evaluation has how sure the model is of its answers: those of earlier versions do not; copy stages/, all but "
            "evaluate-*, to a new output folder and run the command there, which scores the models again"
        )
    timed = study.targets[0].name
    ranked = candidates(pairs, _latencies(models), timed_task=timed, loss=plan.loss)
    if not ranked:
        return f"no two models share the answers on the English dev set of {timed}, or their speeds are not known"
    best = ranked[0]
    variants = next(iter(models.values())).variants
    large, small = models[best.pair.large], models[best.pair.small]
    return CascadedModel(
        *(study, large.size, large.trial, output),
        smaller=small,
        served_as=variants[best.variant],
        thresholds=tuple(best.thresholds.items()),
        predicted=best,
    )


def benchmark_cascade(
    study: Study,
    results: Mapping[str, SearchResult],
    *,
    output: Path,
    tracker: Tracker,
    console: Console,
    to_measure: ToMeasure = lambda repeats, scorings: None,
) -> tuple[str, MeasurementOutcome] | None:
    """Measure and track the study's cascade: the larger model's size, and the outcome; None if there is no cascade.

    Stored measurements are not repeated, and `to_measure` is told how many are missing. The run of a cascade of another size
    becomes a former one.
    """
    model = cascade_of(study, results, output)
    if isinstance(model, str):
        console.say(f"cascade: none is served: {model}")
        return None
    best, name = model.predicted, f"{model.smaller.size.name}→{model.size.name}"
    console.say(
        f"cascade {name} as {best.variant}: English dev predicts {best.dev_score:.1f} at {best.latency_ms:.3g} ms on average"
        + ("" if best.gain > 0 else "; it is not predicted to add to the front")
    )
    (outcome,) = measure_size(model, console, to_measure=to_measure, subject_of=_subject).values()
    if isinstance(outcome, Measured):
        outcome = _named(model, outcome)
    track_outcome(model, CASCADE, outcome, tracker=tracker)
    for size in study.sizes:
        former = tracker.tag(tracker.size(size.name), f"benchmark:{CASCADE}")
        if former is not None and size.name != model.size.name:
            tracker.tags(former, {"kind": FORMER})
    return model.size.name, outcome


def _subject(model: BestModel, stored: StoredMeasurements) -> CascadeBenchmark:
    assert isinstance(model, CascadedModel)
    return CascadeBenchmark(checkpoint_benchmark(model.smaller, stored), model.chain, model.thresholds)


def _named(model: CascadedModel, measured: Measured) -> Measured:
    """The measurement with the names of what was served."""
    names = {
        "small": model.smaller.size.name,
        "small_trial": model.smaller.trial.trial_id,
        "served_as": variant_named(model.served_as).name,
    }
    return Measured({**measured.values, CASCADE: {**names, **measured[CASCADE]}})


def _pairs(models: Mapping[str, BestModel]) -> list[Pair]:
    """Every two sizes whose best models' answers can be compared, in both orders."""
    paths = {name: write_examples(model.chain, model.output) for name, model in models.items()}
    tables = {name: read_example_scores(path) for name, path in paths.items() if path is not None}
    pairs = [pair_of(small, tables[small], large, tables[large]) for small, large in itertools.permutations(tables, 2)]
    return [pair for pair in pairs if pair is not None]


def _latencies(models: Mapping[str, BestModel]) -> dict[str, dict[str, float]]:
    """By variant and size the mean time of a query in ms; the median where a measurement of an earlier version has no mean.

    A cut vocabulary belongs to one tokenizer, so it is left out where sizes have several.
    """
    tokenizers = {model.study.encoder_stage(model.size).tokenizer for model in models.values()}
    latencies: dict[str, dict[str, float]] = {}
    for variant in next(iter(models.values())).variants:
        if len(tokenizers) > 1 and isinstance(variant_named(variant), Cut):
            continue
        outcomes = {name: model.stored(variant).complete() for name, model in models.items()}
        measured = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Measured)}
        mean = all(outcome["mean_ms"] is not None for outcome in measured.values())
        times = {name: outcome["mean_ms" if mean else "p50_ms"] for name, outcome in measured.items()}
        latencies[variant] = {name: float(value) for name, value in times.items() if value is not None}
    return latencies
