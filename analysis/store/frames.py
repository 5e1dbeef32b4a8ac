"""One study as tidy tables, and the names of what stands in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.store.examples import Examples

NONE = "none"
MEAN = "mean"
MEAN_WITHOUT_ENGLISH = "mean without en"
AGGREGATES = (MEAN, MEAN_WITHOUT_ENGLISH)
ENGLISH = "en"
SAID = {MEAN: "all languages, English included", MEAN_WITHOUT_ENGLISH: "languages other than English"}

# what a benchmark run may hold as `bench/<name>`; each may have `<name>_low` and `<name>_high` beside it
BENCH_METRICS = (
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "server_p99_ms",
    "server_qps",
    "throughput_sps",
    "peak_memory_mb",
    "energy_j_per_sample",
    "cold_start_ms",
    "end_to_end_p50_ms",
    "tokenise_p50_ms",
    "mean_pieces",
    "rss_mb",
    "idle_power_w",
    "server_bound_ms",
    "batch_size",
    "repeats",
    "samples",
    "queries",
)
BENCH_BY_LANGUAGE = ("p50_ms", "throughput_sps", "mean_pieces", "pieces_per_word")  # `bench/<name>/<language>`

SIZES = {
    "size": "str",
    "params_m": "float64",
    "params_body_m": "float64",
    "trials": "Int64",
    "pruned": "Int64",
    "failed": "Int64",
    "wall_s": "float64",
    "best_trial": "str",
    "reason": "str",
}
TRIALS = {
    "size": "str",
    "trial_id": "str",
    "kind": "str",
    "repeats": "str",
    "intermediate": "str",
    "lr_intermediate": "float64",
    "lr_target": "float64",
    "seed": "Int64",
    "outcome": "str",
    "default_cell": "bool",
    "dev_score": "float64",
    "test_score": "float64",
    "test_score_without_english": "float64",
    "targets_finished": "Int64",
    "reason": "str",
}
SCORES = {
    "size": "str",
    "trial_id": "str",
    "intermediate": "str",
    "default_cell": "bool",
    "outcome": "str",
    "task": "str",
    "split": "str",
    "language": "str",
    "value": "float64",
    "chance": "float64",
}
BENCHMARKS = {
    "size": "str",
    "variant": "str",
    "trial_id": "str",
    "hardware": "str",
    "timed_task": "str",
    **{name: "float64" for metric in BENCH_METRICS for name in (metric, f"{metric}_low", f"{metric}_high")},
    "test_score": "float64",
    "test_score_without_english": "float64",
    "params_m": "float64",
    "params_body_m": "float64",
    "task_scores": "object",
    "task_scores_without_english": "object",
    "unavailable": "object",
    "results": "object",
    "interference": "str",
    "slowed_by": "str",
    "mig": "str",
    "driver": "str",
    "reason": "str",
}
SPEED_BY_LANGUAGE = {
    "size": "str",
    "variant": "str",
    "trial_id": "str",
    "hardware": "str",
    "language": "str",
    **dict.fromkeys(BENCH_BY_LANGUAGE, "float64"),
}


def frame(rows: Iterable[Any], dtypes: dict[str, str]) -> pd.DataFrame:
    """A table of these columns and types, with its columns even where there are no rows."""
    return pd.DataFrame(list(rows), columns=list(dtypes)).astype(dict(dtypes))


def kept(table: pd.DataFrame, keep: Iterable[bool]) -> pd.DataFrame:
    """The rows to keep; of an empty table, where a plain list would choose columns, all its columns and no row."""
    return table[pd.Series(list(keep), index=table.index, dtype=bool)]


def zero_shot(table: pd.DataFrame) -> tuple[str, pd.Series[float]]:
    """One of `AGGREGATES` and the scores by it that rows of `trials` or `benchmarks` are judged by.

    Without English where every scored row has that, so that all are means over the same languages; else over all.
    """
    scored = table["test_score"].notna()
    if scored.any() and table.loc[scored, "test_score_without_english"].notna().all():
        return MEAN_WITHOUT_ENGLISH, table["test_score_without_english"]
    return MEAN, table["test_score"]


def said_of(judged_by: Mapping[str, str]) -> str:
    """Which languages the means of these targets are over, in words."""
    with_english = [task for task, mean in judged_by.items() if mean == MEAN]
    if not with_english or len(with_english) == len(judged_by):
        return SAID[MEAN if with_english else MEAN_WITHOUT_ENGLISH]
    return f"{SAID[MEAN_WITHOUT_ENGLISH]} ({', '.join(with_english)}: English included)"


def unique(names: Iterable[Any]) -> list[str]:
    """Each name once, in the order of first appearance."""
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class StudyFrames:
    """One study. Scores are percent, latencies milliseconds, memory megabytes, energy joules a sample, sizes millions.

    `sizes`: a row a size, smallest first. `trials`: a row a trial or a repeat of one with another seed (`kind` "trial" or
    "repeat"; `repeats` names the trial); `outcome` is "complete", "stopped_early", "failed" or "unfinished", and
    `dev_score`/`test_score` are means over the `targets_finished`. `scores`: a row a trial, task, split and language;
    `language` is a code, or one of `AGGREGATES` for a mean over languages (every dev row is such a mean). `benchmarks`: a
    row a benchmark; `timed_task` is the target whose queries were timed, `task_scores` maps task to percent, `unavailable`
    metric to reason, `results` scenario to VALID or INVALID; one with a `reason` could not be made and holds no value.
    `samples` queries of `queries` different ones were timed one by one in all `repeats`; `slowed_by`, `mig` and `driver` are
    of the GPU, "" on a CPU or where they were not recorded.
    `speed_by_language`: a row a benchmark and language. `context`: what the study recorded of itself, None or empty where it
    recorded nothing. `examples`: the sums that scores are made of, example by example, read when asked for. `made_good`:
    rows of `trials` for failed attempts that were tried again, which no other table holds.
    """

    sizes: pd.DataFrame
    trials: pd.DataFrame
    scores: pd.DataFrame
    benchmarks: pd.DataFrame
    context: dict[str, Any]
    speed_by_language: pd.DataFrame = field(default_factory=lambda: frame((), SPEED_BY_LANGUAGE))
    examples: Examples = field(default_factory=Examples)
    made_good: pd.DataFrame = field(default_factory=lambda: frame((), TRIALS))

    @property
    def size_names(self) -> list[str]:
        """Every size that any table names, smallest first."""
        return unique([*self.sizes["size"], *self.trials["size"], *self.benchmarks["size"]])

    @property
    def targets(self) -> list[str]:
        """Target tasks in the study's order, then any that were scored without being announced."""
        return unique([*self.context["targets"], *self.scores["task"]])

    @property
    def intermediates(self) -> list[str]:
        """Intermediate tasks in the study's order, "none" included where it was tried."""
        return unique([*self.context["intermediates"], *(name for name in self.trials["intermediate"] if name)])

    @cached_property
    def languages(self) -> list[str]:
        """Every language with a test score, English first, then by code."""
        found = set(self.scores.loc[self.scores["split"] == "test", "language"]) - set(AGGREGATES)
        return sorted(found, key=lambda code: (code != ENGLISH, code))

    @cached_property
    def judged_by(self) -> dict[str, str]:
        """Of each target one of `AGGREGATES`, the mean that verdicts on it are about: chosen here and nowhere else.

        Without English, in which every model is supervised, where every trial that was scored on the target has that mean, so
        that all are over the same languages; else over all.
        """
        test = self.scores[(self.scores["split"] == "test") & self.scores["value"].notna()]
        scored: dict[str, dict[str, set[tuple[str, str]]]] = {}
        for row in test[test["language"].isin(AGGREGATES)].to_dict("records"):
            held = scored.setdefault(row["task"], {name: set() for name in AGGREGATES})
            held[row["language"]].add((row["size"], row["trial_id"]))
        return {
            task: MEAN_WITHOUT_ENGLISH if held[MEAN_WITHOUT_ENGLISH] >= held[MEAN] else MEAN
            for task, held in scored.items()
        }

    def judged(self, split: str = "test", by: Mapping[str, str] | None = None) -> pd.DataFrame:
        """The rows of `scores` that verdicts are about, one a trial and target: by `by` or `judged_by`; dev's is one mean."""
        by = self.judged_by if by is None else by
        rows = self.scores[self.scores["split"] == split]
        if split == "dev":
            return rows[rows["language"] == MEAN]
        return kept(rows, (by.get(t) == mean for t, mean in zip(rows["task"], rows["language"], strict=True)))

    @property
    def said_judged(self) -> str:
        """Which languages the verdicts are about, in words."""
        return said_of(self.judged_by)

    @property
    def searched(self) -> pd.DataFrame:
        """The trials that the search made: repeats left out."""
        return self.trials[self.trials["kind"] == "trial"]

    @property
    def body_m(self) -> dict[str, float]:
        """Body parameters in millions by size, where known."""
        known = self.sizes.dropna(subset=["params_body_m"])
        return dict(zip(known["size"], known["params_body_m"], strict=True))

    def mark(self, intermediate: str, target: str) -> str:
        """ "same data" or "leak" where a gain of that pair is no transfer, else ""."""
        return str(self.context["marks"].get(intermediate, {}).get(target, ""))
