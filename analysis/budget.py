"""What to take for a budget, and how sure it is that the runner-up is not really better."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.examples import Floats, Key
from analysis.frames import BENCH_METRICS, MEAN, StudyFrames
from analysis.inference import example_variance, infer, probability_above_zero
from analysis.tradeoff import MORE_IS_BETTER, configurations, invalid_scenario

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
    """How two configurations differ in mean test score over the targets both were scored on, in points."""

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
    unknown: tuple[str, ...]  # configurations that lack a measurement the budget asks for


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
    """The configuration within the budget with the highest mean test score, the next one, and the difference.

    The runner-up is the next of another size, intermediate task or trial if there is one within the budget, else another
    variant of the same model. A result that its scenario found INVALID does not meet a budget.
    """
    limits = parse_budget(budget) if isinstance(budget, str) else budget
    served = configurations(frames)
    rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in served.to_dict("records")]
    unknown = tuple(
        f"{row['size']} {row['variant']} ({limit.name})"
        for row in rows
        for limit in limits
        if pd.isna(row[limit.name]) or invalid_scenario(row, limit.name)
    )
    fitting = [
        row
        for row in rows
        if pd.notna(row["test_score"])
        and all(limit.holds(row[limit.name]) and not invalid_scenario(row, limit.name) for limit in limits)
    ]
    fitting.sort(key=lambda row: (-row["test_score"], row["p50_ms"] if pd.notna(row["p50_ms"]) else math.inf))
    best = fitting[0] if fitting else None
    others = [
        row for row in fitting[1:] if (row["size"], row["trial_id"]) != (fitting[0]["size"], fitting[0]["trial_id"])
    ]
    runner_up = next(iter(others or fitting[1:]), None)
    difference = compare_configurations(frames, best, runner_up) if best and runner_up else None
    return Choice(limits, best, runner_up, difference, len(fitting), unknown)


def compare_configurations(frames: StudyFrames, first: dict[str, Any], second: dict[str, Any]) -> Difference:
    """The difference of two rows of `tradeoff.configurations`, its 95 % interval and the probability that it is real.

    Its uncertainty is that of the trained models: spread over the seeds that both were repeated with, and resampled test
    examples. A variant that was scored apart from its trial shares the trial's seeds.
    """
    value = float(first["test_score"] - second["test_score"])
    keys = tuple((str(row["size"]), str(row["trial_id"])) for row in (first, second))
    if keys[0] == keys[1]:
        own = tuple(
            (size, f"{trial}/{row['variant']}") for (size, trial), row in zip(keys, (first, second), strict=True)
        )
        draws = _mean_draws(frames, own[0], own[1], _tasks(first, second))
        if draws is None:
            why = "the same model: no examples are recorded by variant"
            return Difference(value, math.nan, math.nan, math.nan, math.nan, why)
        return _difference(value, {}, [draws])
    by_seed = {key: _by_seed(frames, key) for key in keys}
    shared = sorted(by_seed[keys[0]].keys() & by_seed[keys[1]].keys())
    tasks = _tasks(first, second)
    differences: dict[int, float] = {}
    draws_by_seed: list[Floats] = []
    for seed in shared:
        pair = [(key[0], by_seed[key][seed]) for key in keys]
        means = [_mean_score(frames, one, tasks) for one in pair]
        differences[seed] = means[0] - means[1]
        if (drawn := _mean_draws(frames, pair[0], pair[1], tasks)) is not None:
            draws_by_seed.append(drawn)
    return _difference(value, differences, draws_by_seed if len(draws_by_seed) == len(shared) else [])


def _difference(value: float, by_seed: dict[int, float], draws: list[Floats]) -> Difference:
    seeds = len(by_seed)
    variance = float(np.var(list(by_seed.values()), ddof=1)) if seeds > 1 else math.nan
    examples = example_variance(np.stack(draws)) if draws else math.nan
    found = infer([value], [variance], df=[seeds - 1], seeds=[max(seeds, 1)], example_variances=[examples])
    parts = ([f"{seeds} seeds"] if seeds > 1 else []) + (["test examples"] if draws else [])
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


def _tasks(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return sorted(first["task_scores"].keys() & second["task_scores"].keys())


def _by_seed(frames: StudyFrames, key: Key) -> dict[int, str]:
    """The trial and its repeats by seed."""
    trials = frames.trials[(frames.trials["size"] == key[0]) & frames.trials["seed"].notna()]
    own = trials[(trials["trial_id"] == key[1]) | (trials["repeats"] == key[1])]
    return {int(row["seed"]): str(row["trial_id"]) for row in own.to_dict("records")}


def _mean_score(frames: StudyFrames, key: Key, tasks: list[str]) -> float:
    scores = frames.scores
    own = scores[(scores["size"] == key[0]) & (scores["trial_id"] == key[1]) & (scores["split"] == "test")]
    own = own[(own["language"] == MEAN) & own["task"].isin(tasks)]
    return float(own["value"].mean())


def _mean_draws(frames: StudyFrames, first: Key, second: Key, tasks: list[str]) -> Floats | None:
    drawn = []
    for task in tasks:
        both = [frames.examples.draws(key, task) for key in (first, second)]
        if both[0] is None or both[1] is None:
            return None
        drawn.append(both[0] - both[1])
    return np.mean(drawn, axis=0) if drawn else None
