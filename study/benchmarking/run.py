"""The benchmark of each size's best model: every measurement in an actor that has its node to itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ray.exceptions import RayError

from study.benchmarking.placement import device_of, placement_of
from study.benchmarking.stored import BestModel, StoredMeasurements, has_scores
from study.benchmarking.tracking import track_outcome
from study.cluster.node_watch import end_if_lost
from study.console import Console
from study.errors import CannotRun
from study.redact import redacted
from study.search.records import SearchResult
from study.spec import Size, Study
from study.tracking.tracker import Tracker
from trainables.benchmark.actor import NoNode, run_in_actor
from trainables.benchmark.measurement import Failed, Measured, MeasurementOutcome, Unavailable
from trainables.benchmark.repeats import interleaved
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.benchmark.subjects.fresh import Subject
from trainables.benchmark.variants import AS_EVALUATED
from trainables.store.answers import ANSWERS
from trainables.store.bucket.folder import receive
from trainables.store.examples import EXAMPLES

SubjectOf = Callable[[BestModel, StoredMeasurements], Subject]
ToMeasure = Callable[[int, int], object]  # repeats that are left, and how many of them score the models anew
ROUNDS = 2  # a first repeat under new conditions discards the stored ones; the second round then replaces these


def benchmark_size(
    study: Study,
    size: Size,
    *,
    result: SearchResult,
    output: Path,
    tracker: Tracker,
    console: Console,
    to_measure: ToMeasure = lambda repeats, scorings: None,
) -> dict[str, MeasurementOutcome]:
    """Measure and track every variant of the plan on a size's best model; stored measurements are not repeated.

    Empty if the size has no complete trial. `to_measure` is told what is left, at the start and after each repeat.
    """
    model = BestModel.of(study, size, result=result, output=output)
    if model is None:
        console.say(f"benchmark {size.name}: no complete trial, nothing to measure")
        return {}
    if model.variants and result.baseline is None:
        console.say(f"benchmark {size.name}: no complete trial without an intermediate task to compare with")
    outcomes = measure_size(model, console, to_measure=to_measure)
    for variant, outcome in outcomes.items():
        track_outcome(model, variant, outcome, tracker=tracker)
    return outcomes


def checkpoint_benchmark(model: BestModel, stored: StoredMeasurements) -> CheckpointBenchmark:
    """What is measured of a size's best model."""
    plan = model.study.benchmark
    return CheckpointBenchmark(
        str(model.output.resolve()),
        model.chain,
        plan.threads,
        plan.resolved_settings(),
        device_of(plan),
        examples=str(stored.examples.resolve()),
        baseline=model.baseline_chain,
    )


def measure_size(
    model: BestModel,
    console: Console,
    *,
    to_measure: ToMeasure = lambda repeats, scorings: None,
    subject_of: SubjectOf = checkpoint_benchmark,
) -> dict[str, MeasurementOutcome]:
    """The outcome of each variant of the plan. Variants take turns, and each repeat is stored as soon as it is measured.

    A failure ends its own variant only. It is not stored, so that the next run tries again.
    """
    plan = model.study.benchmark
    stored = {name: model.stored(name) for name in model.variants}
    failures: dict[str, Failed] = {}
    to_measure(*_left(model, stored, failures))
    for turn, name in ROUNDS * interleaved(tuple(stored), plan.repeats):
        repeats = stored[name].load()
        if name in failures or isinstance(repeats, Unavailable) or len(repeats) > turn:
            continue
        title = f"benchmark {model.size.name} {name}"
        console.say(f"{title}, repeat {turn + 1} of {plan.repeats}" if plan.repeats > 1 else title)
        try:
            outcome = _measure_repeat(*(model, stored[name], subject_of), turn=turn, scored=not has_scores(repeats))
        except (RayError, CannotRun, NoNode) as error:
            end_if_lost(error)
            failure = Failed(_reason(error))
            console.say(f"{title}: failed: {failure.reason}; run the command again to retry")
            # Without a node for one variant there is none for the others, and each would wait as long.
            failures |= dict.fromkeys(stored.keys() - failures.keys() if isinstance(error, NoNode) else {name}, failure)
            continue
        _store(stored[name], repeats, outcome, title=title, console=console)
        to_measure(*_left(model, stored, failures))
    return {name: _outcome(stored[name], failures.get(name)) for name in stored}


def _left(
    model: BestModel, stored: Mapping[str, StoredMeasurements], failures: Mapping[str, Failed]
) -> tuple[int, int]:
    """The repeats that are missing, and how many of them score the models anew."""
    repeats = scorings = 0
    for name, of_variant in stored.items():
        if name in failures or isinstance(loaded := of_variant.load(), Unavailable):
            continue
        repeats += max(0, model.study.benchmark.repeats - len(loaded))
        scorings += not has_scores(loaded) and type(of_variant.variant) not in AS_EVALUATED
    return repeats, scorings


def _measure_repeat(
    model: BestModel, stored: StoredMeasurements, subject_of: SubjectOf, *, turn: int, scored: bool
) -> Measured | Unavailable:
    outcome = run_in_actor(
        subject_of(model, stored),
        model.variants[stored.variant.name],
        scored=scored,
        label=f"{model.size.name} {stored.variant.name} {turn}",
        placement=placement_of(model.study.benchmark),
    )
    for name in (EXAMPLES, ANSWERS) if scored else ():
        receive(stored.examples.resolve().with_name(name))
    return stored.with_baseline(outcome) if isinstance(outcome, Measured) else outcome


def _store(
    stored: StoredMeasurements,
    repeats: list[Measured],
    outcome: Measured | Unavailable,
    *,
    title: str,
    console: Console,
) -> None:
    """Add a repeat to those stored, or store why there can be none."""
    if isinstance(outcome, Unavailable):
        console.say(f"{title}: cannot run here: {outcome.reason}")
        stored.save(outcome)
        return
    if repeats and repeats[0].conditions != outcome.conditions:
        console.say(
            f"{title}: repeats on another machine, with other versions or with another rule for peak memory are discarded "
            "and measured again"
        )
    stored.save([*repeats, outcome])


def _outcome(stored: StoredMeasurements, failure: Failed | None) -> MeasurementOutcome:
    """Repeats that are all stored count even if the variant could not be measured again."""
    if failure is None:
        return stored.outcome()
    return stored.complete() or failure


def _reason(error: Exception) -> str:
    """What a task raised, in one line without its traceback."""
    cause = getattr(error, "cause", None) or error
    return redacted(f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['no message'])[0]}")
