"""What the console shows of measurements: a table by variant, and remarks on how far its figures can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from trainables.benchmark.flips import BATCH
from trainables.benchmark.measurement import Measured, MeasurementOutcome, Unavailable

COLUMNS = (
    *("variant", "p50 ms", "p90 ms", "p99 ms", "Server, queries/s", "Offline, samples/s", "peak MB"),
    *("cold start s", "J/sample", "score", "LoadGen"),
)
MISSING = "n/a"


def measurement_table(title: str, outcomes: Mapping[str, MeasurementOutcome]) -> Table:
    """The measured variants, one per row."""
    table = Table(*COLUMNS, title=title, title_justify="left")
    for variant, outcome in outcomes.items():
        if isinstance(outcome, Measured):
            table.add_row(variant, *_cells(outcome))
    return table


def remarks(outcomes: Mapping[str, MeasurementOutcome]) -> Iterator[str]:
    """Conditions of the measurements, figures by language, and what puts figures in doubt; one line each."""
    measured = {variant: outcome for variant, outcome in outcomes.items() if isinstance(outcome, Measured)}
    if not measured:
        return
    first = next(iter(measured.values()))
    yield from _conditions(first)
    yield from _by_language(first)
    yield from _flips(measured)
    for variant, outcome in measured.items():
        if (baseline := outcome.get("baseline")) is not None:
            yield (
                f"{variant}: without an intermediate task (trial {baseline['trial_id']}, the same shape and speed) the score "
                f"is {baseline['test_score']:.2f}"
            )
        if outcome.disturbed:
            yield f"{variant}: disturbed: {outcome['interference']['text']}"
        if outcome["context"]["sweep_stopped"]:
            yield f"{variant}: {outcome['context']['sweep_stopped']}"
        yield from (f"{variant}, {scenario}: {'; '.join(why)}" for scenario, why in outcome["problems"].items())


def _flips(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Whether scores hold for single queries, which are what p50 is timed on."""
    for variant, outcome in measured.items():
        if isinstance(flips := outcome.flips, Unavailable):
            if outcome.scored:
                yield f"{variant}: flips are not known: {flips.reason}"
            continue
        yield (
            f"{variant}: of the predictions for {outcome['flips_examples']} examples, those that differ from single queries: "
            f"{flips['flips_scored']:.1f}% as scored, {flips['flips_batch']:.1f}% in batches of {BATCH}, "
            f"{flips['flips_padding']:.1f}% by the padding of these alone"
        )


def _conditions(measured: Measured) -> Iterator[str]:
    """What all variants share, read from one of them."""
    context, repeats = measured["context"], measured["repeats"]
    processes = "one fresh process"
    if repeats > 1:
        processes = f"medians [{measured['intervals_are']}] of {repeats} fresh processes"
    yield (
        f"{context['hardware']['summary']}; {context['torch_threads']} threads on {context['device']}; "
        f"{measured['params_m']:.1f}M parameters, {measured['params_body_m']:.1f}M without embeddings; "
        f"{processes} per variant"
    )
    yield (
        f"queries: {measured['timed_task']}, {measured['mean_pieces']:.1f} tokens on average; "
        "LoadGen scenarios, not an MLPerf result"
    )
    if measured.get("weights") == "random":
        yield "random weights: speed and memory only, nothing to score"
    if measured["tokenise_p50_ms"] is not None:
        yield (
            f"tokenising a query takes {number(measured['tokenise_p50_ms'])} ms, "
            f"text to answer {number(measured['end_to_end_p50_ms'])} ms ({measured['variant']})"
        )


def _by_language(measured: Measured) -> Iterator[str]:
    for name, metric in (("p50 ms", "p50_ms"), ("samples/s", "throughput_sps"), ("tokens per query", "mean_pieces")):
        values = [f"{language} {number(values.get(metric))}" for language, values in measured["languages"].items()]
        yield f"{name} by language ({measured['variant']}): {', '.join(values)}"
    yield from (reason for name, reason in measured["unavailable"].items() if name.startswith("languages/"))


def _cells(measured: Measured) -> Sequence[str]:
    bound_ms, batch_size = measured["server_bound_ms"], measured["batch_size"]
    return (
        _with_interval(measured, "p50_ms"),
        number(measured["p90_ms"]),
        number(measured["p99_ms"]),
        MISSING if bound_ms is None else f"{_with_interval(measured, 'server_qps')} (p99 ≤ {bound_ms:g} ms)",
        MISSING if batch_size is None else f"{_with_interval(measured, 'throughput_sps')} (batches of {batch_size})",
        number(measured["peak_memory_mb"]),
        f"{measured['cold_start_ms'] / 1000:.2f}",
        number(measured["energy_j_per_sample"]),
        _score(measured),
        _verdict(measured),
    )


def _score(measured: Measured) -> str:
    if (score := measured.get("test_score")) is not None:
        return f"{score:.2f}"
    if (agreement := measured.get("agreement")) is not None:
        return f"cosine {agreement['cosine_mean']:.4f}"
    return MISSING


def _verdict(measured: Measured) -> str:
    """LoadGen's verdict: once if all scenarios share it, else per scenario."""
    verdicts = ["VALID" if valid else "INVALID" for valid in measured["valid"].values()]
    return verdicts[0] if len(set(verdicts)) == 1 else "/".join(verdicts)


def _with_interval(measured: Measured, name: str) -> str:
    if measured[name] is None or name not in measured["intervals"]:
        return number(measured[name])
    low, high = measured["intervals"][name]
    return f"{number(measured[name])} [{number(low)}, {number(high)}]"


def number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
