"""What to take for a budget, and how sure it is that the runner-up is not really better."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.charts.common import METRIC_NAMES
from analysis.store.examples import Floats, Key
from analysis.store.frames import BENCH_METRICS, StudyFrames
from analysis.tables.inference import example_variance, infer, probability_above_zero
from analysis.tables.seeds import mean_draws, seed_runs, served_score
from analysis.tables.tradeoff import MORE_IS_BETTER, configurations

_LIMIT = re.compile(r"\s*(?P<name>\w+)\s*(?P<sign><=|>=|<|>)\s*(?P<value>[-+0-9.eE]+)\s*")


class BadBudget(ValueError):
    """A budget that cannot be read; the message says what would be right."""


@dataclass(frozen=True)
class Limit:
    """One condition, such as p50_ms <= 15."""

    name: str
    sign: str
    value: float

    def holds(self, value: float) -> bool:
        """Whether a measured value is within; an unknown one is not."""
        if self.sign == "<=":
            return value <= self.value
        if self.sign == ">=":
            return value >= self.value
        return value < self.value if self.sign == "<" else value > self.value

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.value:g}"


@dataclass(frozen=True)
class Difference:
    """How two configurations differ in mean test score over seeds and over the targets both were scored on, in points."""

    value: float
    se: float
    low: float
    high: float
    probability: float  # that the first is really better
    rests_on: str  # what the uncertainty covers, or why there is none


@dataclass(frozen=True)
class Choice:
    """What a budget buys: rows of `tradeoff.configurations` (None: nothing fits), and how they differ."""

    limits: tuple[Limit, ...]
    best: dict[str, Any] | None
    runner_up: dict[str, Any] | None
    difference: Difference | None
    fitting: int
    unknown: tuple[str, ...]  # configurations that may fit: no limit is known to be broken, and one cannot be judged
    undecided: dict[str, tuple[str, ...]]  # the scored ones among them by what would have to be measured


def parse_budget(text: str) -> tuple[Limit, ...]:
    """ "p50_ms<=15, energy_j_per_sample<=0.5" as limits.

    Raises:
        BadBudget: not of this form, a metric that no benchmark has, or a limit in the useless direction.
    """
    limits = []
    for part in re.split(r",| and ", text):
        found = _LIMIT.fullmatch(part)
        if found is None:
            raise BadBudget(f"budget {part.strip()!r}: must read like p50_ms<=15, several joined by commas")
        name = found["name"]
        if name not in BENCH_METRICS:
            raise BadBudget(f"budget {part.strip()!r}: no metric {name!r}; there are {', '.join(BENCH_METRICS)}")
        try:
            limits.append(Limit(name, found["sign"], float(found["value"])))
        except ValueError as error:
            raise BadBudget(f"budget {part.strip()!r}: {found['value']!r} is no number") from error
        if (name in MORE_IS_BETTER) != found["sign"].startswith(">"):
            wanted = ">=" if name in MORE_IS_BETTER else "<="
            raise BadBudget(f"budget {part.strip()!r}: a budget bounds {name} with {wanted}")
    return tuple(limits)


def best_for_budget(frames: StudyFrames, budget: str | tuple[Limit, ...]) -> Choice:
    """The configuration within the budget with the highest mean test score over its seeds, the next one, and the difference.

    They are ranked over the targets that all within the budget were scored on; the two foremost then stand in the order of
    their paired difference. The runner-up is the next of another size, intermediate task or trial if there is one within the
    budget, else another variant of the same model. A result that its scenario found INVALID does not meet a budget.

    The p99 under load is that at the load `server_qps`, the highest found to keep it within the bound `server_bound_ms`; the
    bound decides which load was measured, not how long answers took. So a p99 within the limit meets it at that load: the
    highest that does where the bound is no lower than the limit, and where it is lower, one that a higher might do for as well.
    A p99 over the limit does not break it: a lower load might keep it, and none was measured.
    """
    limits = parse_budget(budget) if isinstance(budget, str) else budget
    rows: list[dict[str, Any]] = [
        {str(k): v for k, v in row.items()} for row in configurations(frames).to_dict("records")
    ]
    judged = [[judge(row, limit, limits) for limit in limits] for row in rows]
    open_rows = [
        (row, missing)
        for row, found in zip(rows, judged, strict=True)
        if False not in found and (missing := [one for one in found if isinstance(one, Missing)])
    ]
    unknown = tuple(f"{_name(row)} ({one.why})" for row, missing in open_rows for one in missing)
    undecided: dict[str, tuple[str, ...]] = {}
    for row, missing in open_rows:
        for one in missing if pd.notna(row["score"]) else []:
            undecided[one.what] = (*undecided.get(one.what, ()), _name(row))
    fitting = [
        row
        for row, found in zip(rows, judged, strict=True)
        if pd.notna(row["score"]) and all(one is True for one in found)
    ]
    shared = sorted(set.intersection(*(set(row["task_scores"]) for row in fitting))) if fitting else []
    means = {(row["size"], row["variant"]): _expected(frames, row, shared) for row in fitting}
    fitting.sort(
        key=lambda row: (-means[row["size"], row["variant"]], row["p50_ms"] if pd.notna(row["p50_ms"]) else math.inf)
    )
    best = fitting[0] if fitting else None
    others = [
        row for row in fitting[1:] if (row["size"], row["trial_id"]) != (fitting[0]["size"], fitting[0]["trial_id"])
    ]
    runner_up = next(iter(others or fitting[1:]), None)
    difference = compare_configurations(frames, best, runner_up) if best and runner_up else None
    if best and runner_up and difference is not None and difference.value < 0:
        best, runner_up = runner_up, best
        difference = compare_configurations(frames, best, runner_up)
    return Choice(limits, best, runner_up, difference, len(fitting), unknown, undecided)


def compare_configurations(frames: StudyFrames, first: dict[str, Any], second: dict[str, Any]) -> Difference:
    """The difference of two rows of `tradeoff.configurations`, its 95 % interval and the probability that it is real.

    The mean over the seeds that both were repeated with, over the targets that both were scored on; its uncertainty is the
    spread over these seeds and that of resampled test examples. Of two variants of one model, the difference as served.
    """
    tasks, language = sorted(first["task_scores"].keys() & second["task_scores"].keys()), str(first["judged_by"])
    keys = tuple((str(row["size"]), str(row["trial_id"])) for row in (first, second))
    if keys[0] == keys[1]:
        served = [row["judged_scores"] for row in (first, second)]
        known = bool(tasks) and all(scores.keys() >= set(tasks) for scores in served)
        means = [
            float(np.mean([scores[task] for task in tasks])) if known else float(row["score"])
            for scores, row in zip(served, (first, second), strict=True)
        ]
        own = [(size, f"{trial}/{row['variant']}") for (size, trial), row in zip(keys, (first, second), strict=True)]
        draws = _draws_of_difference(frames, own[0], own[1], tasks, language)
        if draws is None:
            why = "the same model: no examples are recorded by variant"
            return Difference(means[0] - means[1], math.nan, math.nan, math.nan, math.nan, why)
        return _difference([means[0] - means[1]], [draws])
    runs = [seed_runs(frames, key, tasks, language) for key in keys]
    scores = [served_score(row, tasks, of_row) for row, of_row in zip((first, second), runs, strict=True)]
    shared = sorted(scores[0].keys() & scores[1].keys())
    if not shared:
        value = _expected(frames, first, tasks) - _expected(frames, second, tasks)
        return Difference(value, math.nan, math.nan, math.nan, math.nan, "no complete run of both with one seed")
    drawn = []
    for seed in shared:
        one, other = ((key[0], of_row[seed].trial_id) for key, of_row in zip(keys, runs, strict=True))
        drawn.append(_draws_of_difference(frames, one, other, tasks, language))
    return _difference(
        [scores[0][seed] - scores[1][seed] for seed in shared], [one for one in drawn if one is not None]
    )


def _difference(by_seed: list[float], draws: list[Floats]) -> Difference:
    seeds, value = len(by_seed), float(np.mean(by_seed))
    whole = len(draws) == seeds
    variance = float(np.var(by_seed, ddof=1)) if seeds > 1 else math.nan
    examples = example_variance(np.stack(draws)) if whole else math.nan
    found = infer([value], [variance], df=[seeds - 1], seeds=[seeds], example_variances=[examples])
    parts = ([f"{seeds} seeds"] if seeds > 1 else []) + (["test examples"] if whole else [])
    rests_on = " and ".join(parts) or "one seed and no examples: no error bar"
    if parts and seeds <= 1:
        rests_on += " alone (one seed)"
    return Difference(
        value,
        float(found.se[0]),
        float(found.low[0]),
        float(found.high[0]),
        probability_above_zero(value, float(found.se[0]), float(found.df[0])),
        rests_on,
    )


@dataclass(frozen=True)
class Missing:
    """Why a limit cannot be judged: for the configuration, and `what` would have to be measured."""

    why: str
    what: str


def judge(row: dict[str, Any], limit: Limit, limits: tuple[Limit, ...]) -> bool | Missing:
    """Whether a configuration keeps one of the limits of a budget, or what is missing to say so."""
    value = row[limit.name]
    if pd.isna(value):
        return Missing(limit.name, METRIC_NAMES[limit.name])
    holds = limit.holds(value)
    qps, bound = row["server_qps"], row["server_bound_ms"]
    if limit.name == "server_p99_ms":
        if pd.isna(qps):
            return Missing(f"{limit.name}: at what load is not recorded", METRIC_NAMES["server_qps"])
        if not holds:
            at = f"{limit.name}: {value:.3g} ms at {qps:,.1f} queries/s, a lower load was not measured"
            return Missing(at, f"{METRIC_NAMES[limit.name]} at lower loads")
    if limit.name == "server_qps" and not holds:
        wanted = [one for one in limits if one.name == "server_p99_ms" and pd.notna(bound) and one.value > bound]
        if wanted:
            at = f"{limit.name}: {value:,.1f} queries/s within {bound:g} ms, a higher load was not sought"
            return Missing(at, f"{METRIC_NAMES['server_p99_ms']} at higher loads")
    return holds


def _name(row: dict[str, Any]) -> str:
    return f"{row['size']} {row['variant']}"


def _expected(frames: StudyFrames, row: dict[str, Any], tasks: list[str]) -> float:
    """The mean over seeds, over these targets where the runs have them, else as measured."""
    runs = seed_runs(frames, (str(row["size"]), str(row["trial_id"])), tasks, str(row["judged_by"]))
    scores = served_score(row, tasks, runs)
    return float(np.mean(list(scores.values()))) if scores else float(row["score"])


def _draws_of_difference(
    frames: StudyFrames, first: Key, second: Key, tasks: list[str], language: str
) -> Floats | None:
    one, other = (mean_draws(frames, key, tasks, language) for key in (first, second))
    return None if one is None or other is None else one - other
