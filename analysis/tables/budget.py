"""The best configuration within a budget, and how likely it is that the runner-up is in fact better."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.examples import Floats, Key
from analysis.store.frames import BENCH_METRICS, StudyFrames, cascade_in, served_key
from analysis.store.names import METRIC_DIGITS, METRIC_NAMES
from analysis.tables.inference import example_variance, infer
from analysis.tables.seeds import mean_draws, seed_runs, served_scores
from analysis.tables.tradeoff import MORE_IS_BETTER, configurations, kinds_of_hardware

_LIMIT = re.compile(r"\s*(?P<name>\w+)\s*(?P<sign><=|>=|<|>)\s*(?P<value>[-+0-9.eE]+)\s*")


class BadBudget(ValueError):
    """A budget that cannot be parsed; the message says what is accepted."""


@dataclass(frozen=True)
class Limit:
    """One bound of a budget, such as p50_ms <= 15."""

    name: str
    sign: str
    value: float

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound; False for NaN."""
        if self.sign == "<=":
            return value <= self.value
        if self.sign == ">=":
            return value >= self.value
        return value < self.value if self.sign == "<" else value > self.value

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.value:g}"


@dataclass(frozen=True)
class Difference:
    """Difference of two configurations in mean test score, over seeds and the targets both were scored on, in points."""

    value: float
    se: float
    low: float
    high: float
    probability: float  # that the first is better
    rests_on: str  # sources of error that the interval covers, or why there is no interval
    seeds: int  # that both have


@dataclass(frozen=True)
class Pick:
    """What a budget buys: rows of `tradeoff.configurations` (None: nothing fits), and their difference.

    All rows were measured on `hardware`.
    """

    limits: tuple[Limit, ...]
    hardware: str
    best: dict[str, Any] | None
    runner_up: dict[str, Any] | None
    difference: Difference | None
    fitting: int
    unknown: tuple[str, ...]  # configurations that may fit: they break no limit, but one could not be checked
    undecided: dict[str, tuple[str, ...]]  # the scored ones among them, by what would have to be measured


def parse_budget(text: str) -> tuple[Limit, ...]:
    """ "p50_ms<=15, energy_j_per_sample<=0.5" as limits.

    Raises:
        BadBudget: not of this form, an unknown metric, or a bound in the wrong direction.
    """
    limits = []
    for part in re.split(r",| and ", text):
        match = _LIMIT.fullmatch(part)
        if match is None:
            raise BadBudget(f"budget {part.strip()!r}: must look like p50_ms<=15; separate several limits with commas")
        name = match["name"]
        if name not in BENCH_METRICS:
            raise BadBudget(f"budget {part.strip()!r}: unknown metric {name!r}; use one of {', '.join(BENCH_METRICS)}")
        try:
            limits.append(Limit(name, match["sign"], float(match["value"])))
        except ValueError as error:
            raise BadBudget(f"budget {part.strip()!r}: {match['value']!r} is not a number") from error
        if (name in MORE_IS_BETTER) != match["sign"].startswith(">"):
            sign = ">=" if name in MORE_IS_BETTER else "<="
            raise BadBudget(f"budget {part.strip()!r}: bound {name} with {sign}")
    return tuple(limits)


def best_for_budget(frames: StudyFrames, budget: str | tuple[Limit, ...], *, hardware: str | None = None) -> Pick:
    """The configuration within the budget with the highest mean test score over its seeds, the runner-up, and their difference.

    A budget is for one kind of hardware, whose name may be left out where a study was measured on one alone.

    Configurations are ranked over the targets that all of those within the budget were scored on; the top two are then ordered
    by their paired difference. The runner-up is the next of another size or trial, else another serving variant of the same
    model. A result that its scenario reports INVALID does not meet a budget.

    The p99 under load holds at the load `server_qps`, the highest that keeps it within the bound `server_bound_ms`. A p99
    within the limit therefore meets the limit at that load: the highest such load if the bound is no lower than the limit, else
    a higher load might do too. A p99 over the limit does not break it, because a lower load might keep it and was not measured.

    Raises:
        BadBudget: the budget cannot be parsed; or nothing was measured on the hardware, or something on several kinds of it.
    """
    limits = parse_budget(budget) if isinstance(budget, str) else budget
    budgets = Budgets(frames)
    if hardware is None and len(budgets.hardware) > 1:
        raise BadBudget(f"measured on several kinds of hardware, so give hardware=, one of {_quoted(budgets.hardware)}")
    if hardware is not None and hardware not in budgets.hardware:
        raise BadBudget(f"hardware {hardware!r}: nothing was measured on it; one of {_quoted(budgets.hardware)}")
    return budgets.pick(limits, hardware=next(iter(budgets.hardware), "") if hardware is None else hardware)


class Budgets:
    """Picks for any number of budgets of one study (`best_for_budget`); scores and differences are computed once.

    `hardware`: the kinds that something was measured on, in the order of the benchmarks.
    """

    def __init__(self, frames: StudyFrames) -> None:
        self._frames = frames
        self._rows = [
            {str(name): value for name, value in row.items()} for row in configurations(frames).to_dict("records")
        ]
        self.hardware = kinds_of_hardware(frames.benchmarks)
        self._means: dict[tuple[object, ...], float] = {}
        self._differences: dict[tuple[object, ...], Difference] = {}

    def pick(self, limits: tuple[Limit, ...], *, hardware: str) -> Pick:
        """What this budget buys on one kind of hardware."""
        fitting: list[dict[str, Any]] = []
        unknown: list[str] = []
        undecided: dict[str, tuple[str, ...]] = {}
        for row in self._on(hardware):
            checks = [check(row, limit, limits) for limit in limits]
            scored = pd.notna(row["score"])
            if scored and all(result is True for result in checks):
                fitting.append(row)
            if False in checks or row["baseline"]:  # a baseline lacks what the row that was timed lacks
                continue
            for missing in (result for result in checks if isinstance(result, Missing)):
                unknown.append(f"{_name(row)} ({missing.why})")
                if scored:
                    undecided[missing.what] = (*undecided.get(missing.what, ()), _name(row))
        best, runner_up, difference = self._top_two(fitting)
        return Pick(limits, hardware, best, runner_up, difference, len(fitting), tuple(unknown), undecided)

    def steps(self, metric: str, *, hardware: str, also: Limit | None = None) -> list[Pick]:
        """The picks for limits on one metric, tightest first: one at the value of each scored configuration, and `also`.

        Between two of these values nothing else fits, so they answer every budget on this metric that something meets. Values
        are rounded to the decimals they are shown with, towards the side on which their configuration fits. No steps where no
        scored configuration has the metric.
        """
        more, digits = metric in MORE_IS_BETTER, METRIC_DIGITS[metric]
        known = [row[metric] for row in self._on(hardware) if pd.notna(row[metric]) and pd.notna(row["score"])]
        values = {_rounded(value, digits, up=not more) for value in known}
        limits = {Limit(metric, ">=" if more else "<=", value) for value in values}
        if limits and also is not None:
            limits.add(also)
        # "<" is tighter than "<=" at the same value.
        tightest_first = sorted(limits, key=lambda limit: (-limit.value if more else limit.value, "=" in limit.sign))
        return [self.pick((limit,), hardware=hardware) for limit in tightest_first]

    def _on(self, hardware: str) -> list[dict[str, Any]]:
        """The configurations measured on it, and those that could not be measured."""
        return [row for row in self._rows if row["reason"] or row["hardware"] == hardware]

    def _top_two(
        self, fitting: list[dict[str, Any]]
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None, Difference | None]:
        """The best configuration, the runner-up and their difference; None where there are too few."""
        if not fitting:
            return None, None, None
        shared = sorted(set.intersection(*(set(row["task_scores"]) for row in fitting)))
        means = {_key(row): self._expected(row, shared) for row in fitting}
        ranked = sorted(
            fitting, key=lambda row: (-means[_key(row)], row["p50_ms"] if pd.notna(row["p50_ms"]) else math.inf)
        )
        best = ranked[0]
        others = [row for row in ranked[1:] if (row["size"], row["trial_id"]) != (best["size"], best["trial_id"])]
        runner_up = next(iter(others or ranked[1:]), None)
        if runner_up is None:
            return best, None, None
        difference = self._difference(best, runner_up)
        if difference.value < 0:
            return runner_up, best, self._difference(runner_up, best)
        return best, runner_up, difference

    def _expected(self, row: dict[str, Any], tasks: list[str]) -> float:
        key = (*_key(row), row["hardware"], *tasks)
        if key not in self._means:
            self._means[key] = _expected(self._frames, row, tasks)
        return self._means[key]

    def _difference(self, first: dict[str, Any], second: dict[str, Any]) -> Difference:
        key = (*_key(first), first["hardware"], *_key(second), second["hardware"])
        if key not in self._differences:
            self._differences[key] = compare_configurations(self._frames, first, second)
        return self._differences[key]


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _rounded(value: float, digits: int, *, up: bool) -> float:
    """To this many decimals, never below the value if `up`, else never above it."""
    rounded = round(value, digits)
    if up and rounded < value:
        return round(rounded + 10.0**-digits, digits)
    if not up and rounded > value:
        return round(rounded - 10.0**-digits, digits)
    return rounded


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    """What names a configuration: size and variant are those of its baseline too."""
    return str(row["size"]), str(row["variant"]), str(row["trial_id"])


def compare_configurations(frames: StudyFrames, first: dict[str, Any], second: dict[str, Any]) -> Difference:
    """The difference of two rows of `tradeoff.configurations`, its 95% interval and the probability that it is positive.

    Averaged over the seeds both were trained with and the targets both were scored on. The interval covers the spread over
    these seeds and resampled test examples. For two serving variants of one model: the difference as served.
    """
    tasks, language = sorted(first["task_scores"].keys() & second["task_scores"].keys()), str(first["judged_by"])
    keys = tuple((str(row["size"]), str(row["trial_id"])) for row in (first, second))
    if keys[0] == keys[1]:
        return _difference_of_variants(frames, first, second, tasks=tasks)
    runs = [seed_runs(frames, key, tasks, language) for key in keys]
    scores = [served_scores(row, tasks, by_seed) for row, by_seed in zip((first, second), runs, strict=True)]
    shared = sorted(scores[0].keys() & scores[1].keys())
    if not shared:
        value = _expected(frames, first, tasks) - _expected(frames, second, tasks)
        return _without_interval(value, "the two share no seed with a complete run", seeds=0)
    draws = []
    for seed in shared:
        ids = [(key[0], by_seed[seed].trial_id) for key, by_seed in zip(keys, runs, strict=True)]
        draws.append(_draws_of_difference(frames, ids[0], ids[1], tasks=tasks, language=language))
    return _difference(
        [scores[0][seed] - scores[1][seed] for seed in shared], [drawn for drawn in draws if drawn is not None]
    )


def _difference_of_variants(
    frames: StudyFrames, first: dict[str, Any], second: dict[str, Any], *, tasks: list[str]
) -> Difference:
    """The difference of two serving variants of one model, as served."""
    served = [row["judged_scores"] for row in (first, second)]
    has_tasks = bool(tasks) and all(scores.keys() >= set(tasks) for scores in served)
    means = [
        float(np.mean([scores[task] for task in tasks])) if has_tasks else float(row["score"])
        for scores, row in zip(served, (first, second), strict=True)
    ]
    draws = _draws_of_difference(
        frames, served_key(first), served_key(second), tasks=tasks, language=str(first["judged_by"])
    )
    if draws is None:
        why = "the same model, and no examples are recorded by serving variant"
        return _without_interval(means[0] - means[1], why, seeds=1)
    return _difference([means[0] - means[1]], [draws])


def _without_interval(value: float, why: str, *, seeds: int) -> Difference:
    return Difference(value, math.nan, math.nan, math.nan, math.nan, why, seeds)


def _difference(by_seed: list[float], draws: list[Floats]) -> Difference:
    seeds, value = len(by_seed), float(np.mean(by_seed))
    with_examples = len(draws) == seeds
    variance = float(np.var(by_seed, ddof=1)) if seeds > 1 else math.nan
    examples = example_variance(np.stack(draws)) if with_examples else math.nan
    inferred = infer([value], [variance], df=[seeds - 1], seeds=[seeds], example_variances=[examples])
    sources = ([f"{seeds} seeds"] if seeds > 1 else []) + (["test examples"] if with_examples else [])
    rests_on = " and ".join(sources) or "one seed and no examples"
    if sources and seeds <= 1:
        rests_on += " alone (one seed)"
    return Difference(
        value,
        float(inferred.se[0]),
        float(inferred.low[0]),
        float(inferred.high[0]),
        float(inferred.above_zero[0]),
        rests_on,
        seeds,
    )


@dataclass(frozen=True)
class Missing:
    """Why a limit cannot be checked for a configuration, and `what` would have to be measured."""

    why: str
    what: str


def check(row: dict[str, Any], limit: Limit, limits: tuple[Limit, ...]) -> bool | Missing:
    """Whether a configuration meets one of the limits of a budget, or what is missing to decide."""
    value = row[limit.name]
    if pd.isna(value):
        return Missing(limit.name, METRIC_NAMES[limit.name])
    holds = limit.holds(value)
    qps, bound = row["server_qps"], row["server_bound_ms"]
    if limit.name == "server_p99_ms":
        if pd.isna(qps):
            return Missing(f"{limit.name}: the load is not recorded", METRIC_NAMES["server_qps"])
        if not holds:
            why = f"{limit.name}: {value:.3g} ms at {qps:,.1f} queries/s, and no lower load was measured"
            return Missing(why, f"{METRIC_NAMES[limit.name]} at lower loads")
    if limit.name == "server_qps" and not holds:
        looser = [other for other in limits if other.name == "server_p99_ms" and other.value > bound]
        if looser and pd.notna(bound):
            why = f"{limit.name}: {value:,.1f} queries/s within {bound:g} ms, and no higher load was tried"
            return Missing(why, f"{METRIC_NAMES['server_p99_ms']} at higher loads")
    return holds


def _name(row: dict[str, Any]) -> str:
    cascade = cascade_in(row)
    return f"{cascade['small']}→{row['size']} cascade" if cascade else f"{row['size']} {row['variant']}"


def _expected(frames: StudyFrames, row: dict[str, Any], tasks: list[str]) -> float:
    """The mean over seeds and these targets if the runs have scores of them; otherwise the score as served."""
    runs = seed_runs(frames, (str(row["size"]), str(row["trial_id"])), tasks, str(row["judged_by"]))
    scores = served_scores(row, tasks, runs)
    return float(np.mean(list(scores.values()))) if scores else float(row["score"])


def _draws_of_difference(
    frames: StudyFrames, first: Key, second: Key, *, tasks: list[str], language: str
) -> Floats | None:
    draws = [mean_draws(frames, key, tasks, language) for key in (first, second)]
    return None if draws[0] is None or draws[1] is None else draws[0] - draws[1]
