"""One study as tidy tables: their columns, and the rows that verdicts are about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd

from analysis.store.examples import Examples, Key

T = TypeVar("T")
NONE = "none"
MEAN = "mean"
MEAN_WITHOUT_ENGLISH = "mean without en"
AGGREGATES = (MEAN, MEAN_WITHOUT_ENGLISH)
ENGLISH = "en"
UNKNOWN = "unknown"  # in place of languages
AGGREGATE_NAMES = {MEAN: "all languages, English included", MEAN_WITHOUT_ENGLISH: "languages other than English"}

# Metrics `<signal>/<task>`: how sure a model is and how far languages agree, in percent and without labels; its losses.
DIAGNOSTIC_SIGNALS = ("confidence", "agreement", "first_loss", "final_loss")

FLIPS = ("flips_scored", "flips_batch", "flips_padding")  # predictions that change with the batch, in percent
# Metrics `bench/<name>` of a benchmark run; each may come with `<name>_low` and `<name>_high`.
BENCH_METRICS = (
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "mean_ms",
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
    *FLIPS,
    "flips_examples",
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
    "encoder": "str",
    "seen": "object",
    "seen_by_arm": "object",
    "search_ended": "str",
}
TRIALS = {
    "size": "str",
    "trial_id": "str",
    "kind": "str",
    "repeats": "str",
    "intermediate": "str",
    "lr_intermediate": "float64",
    "lr_target": "float64",
    "rate_factor": "float64",
    "seed": "Int64",
    "outcome": "str",
    "default_cell": "bool",
    "dev_score": "float64",
    "test_score": "float64",
    "test_score_without_english": "float64",
    "targets_finished": "Int64",
    "reason": "str",
    "constant": "str",
    "encoder_train_s": "float64",
    "target_train_s": "float64",
    "in_place_of": "str",
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
DIAGNOSTICS = {"size": "str", "trial_id": "str", "task": "str", "signal": "str", "value": "float64"}
CEILINGS = {"size": "str", "task": "str", "language": "str", "value": "float64"}
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
    "baseline_trial_id": "str",
    "baseline_test_score": "float64",
    "baseline_test_score_without_english": "float64",
    "baseline_task_scores": "object",
    "baseline_task_scores_without_english": "object",
    "unavailable": "object",
    "results": "object",
    "interference": "str",
    "slowed_by": "str",
    "mig": "str",
    "driver": "str",
    "reason": "str",
    "cascade": "object",
}
EVALUATIONS = {"size": "str", "trial_id": "str", "task": "str", "stage": "str"}
SPEED_BY_LANGUAGE = {
    "size": "str",
    "variant": "str",
    "trial_id": "str",
    "hardware": "str",
    "language": "str",
    **dict.fromkeys(BENCH_BY_LANGUAGE, "float64"),
}


def frame(rows: Iterable[Any], dtypes: dict[str, str]) -> pd.DataFrame:
    """A table with these columns and types; it keeps its columns when there are no rows.

    A row without a text has "", and one without an object None.
    """
    table = pd.DataFrame(list(rows), columns=list(dtypes))
    filled = {name: table[name].fillna("") for name, dtype in dtypes.items() if dtype == "str"}
    for name in (name for name, dtype in dtypes.items() if dtype == "object"):
        filled[name] = table[name].astype(object).where(table[name].notna(), None)
    return table.assign(**filled).astype(dict(dtypes))


def rows_where(table: pd.DataFrame, keep: Iterable[bool]) -> pd.DataFrame:
    """The rows whose flag is true. A plain list would select columns from an empty table; this does not."""
    return table[pd.Series(list(keep), index=table.index, dtype=bool)]


def cascade_in(row: Mapping[Any, Any]) -> Mapping[str, Any]:
    """What a row of `benchmarks` says of the cascade that was served; empty for a single model.

    `small` and `small_trial` name the smaller model; the row's own size and trial are the larger one's. `served_as` is the
    serving variant of both, `thresholds` has the least confidence at which the smaller answers, by target, and `timed_share` is
    the share of the timed queries that it answered.
    """
    cascade = row.get("cascade")
    return cascade if isinstance(cascade, dict) else {}


def served_key(row: Mapping[Any, Any]) -> Key:
    """Under which `StudyFrames.examples` has the scores by example of a row of `benchmarks`: as served, not as evaluated."""
    return str(row["size"]), f"{row['trial_id']}/{row['variant']}"


def zero_shot(table: pd.DataFrame) -> tuple[str, pd.Series[float]]:
    """The aggregate (one of `AGGREGATES`) that rows of `trials` or `benchmarks` are judged by, and their scores.

    Without English where every scored row has that mean, so all rows average the same languages; else over all languages.
    """
    scored = table["test_score"].notna()
    if scored.any() and table.loc[scored, "test_score_without_english"].notna().all():
        return MEAN_WITHOUT_ENGLISH, table["test_score_without_english"]
    return MEAN, table["test_score"]


def languages_in_words(judged_by: Mapping[str, str]) -> str:
    """Which languages the means of these targets cover, as a phrase."""
    with_english = [task for task, mean in judged_by.items() if mean == MEAN]
    if not with_english or len(with_english) == len(judged_by):
        return AGGREGATE_NAMES[MEAN if with_english else MEAN_WITHOUT_ENGLISH]
    return f"{AGGREGATE_NAMES[MEAN_WITHOUT_ENGLISH]} ({', '.join(with_english)}: English included)"


def unique(names: Iterable[Any]) -> list[str]:
    """Each name once, in the order of first appearance."""
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class StudyFrames:
    """One study. Units: scores in percent, latency ms, memory MB, energy J per sample, sizes in millions of parameters.

    `sizes`: one row per size, smallest first. `encoder` names a published encoder; `seen` maps targets to those of
    their data that it was trained on before, `seen_by_arm` does so by intermediate choice, for those that start from a
    checkpoint of their own.
    `trials`: one row per trial (`kind` "trial") and per repeat with another seed ("repeat"; `repeats` names the trial).
    `outcome` is "complete", "stopped_early", "failed" or "unfinished". `dev_score` and `test_score` average the
    `targets_finished` targets. `encoder_train_s` and `target_train_s` are the seconds of its trainings (and merges) before the
    targets and of the others, as if it shared none; NaN where not recorded. `in_place_of`: of a repeat, the collapsed runs
    (`chance.collapsed_runs`) that it was made for, with commas; else "".
    `scores`: one row per trial, task, split and language. `language` is a code, or one of `AGGREGATES` for a mean over
    languages; every dev row is such a mean. `chance` is the score of guessing.
    `ceilings`: the highest score that any model of a size could reach, by task and language, where its head bounds it.
    `diagnostics`: what a run shows of itself on a task, the `DIAGNOSTIC_SIGNALS`. Runs of earlier versions lack them.
    `benchmarks`: one row per size and serving variant. `timed_task` is the target whose queries were timed. `task_scores`
    maps task to percent, `unavailable` metric to reason, `results` scenario to VALID or INVALID. A row with a `reason` could
    not be measured and has no values. `samples` queries, drawn from `queries` distinct ones, were timed over all `repeats`.
    `slowed_by`, `mig` and `driver` describe the GPU; "" on a CPU or where not recorded. Columns that begin with `baseline_` are
    about the size's best trial without an intermediate task, scored in the same variant; "", NaN or {} where there is none.
    `speed_by_language`: one row per benchmark and language.
    `context`: what the study recorded about itself, None or empty where it recorded nothing.
    `examples`: per-example sums behind the scores, read on demand.
    `retried`: failed attempts that were retried, with the columns of `trials`; no other table has them.
    `evaluations`: the stage that scored each finished target of a trial; none for trials of earlier versions.
    """

    sizes: pd.DataFrame
    trials: pd.DataFrame
    scores: pd.DataFrame
    benchmarks: pd.DataFrame
    context: dict[str, Any]
    speed_by_language: pd.DataFrame = field(default_factory=lambda: frame((), SPEED_BY_LANGUAGE))
    examples: Examples = field(default_factory=Examples)
    ceilings: pd.DataFrame = field(default_factory=lambda: frame((), CEILINGS))
    retried: pd.DataFrame = field(default_factory=lambda: frame((), TRIALS))
    diagnostics: pd.DataFrame = field(default_factory=lambda: frame((), DIAGNOSTICS))
    evaluations: pd.DataFrame = field(default_factory=lambda: frame((), EVALUATIONS))
    _computed: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def once(self, name: str, compute: Callable[[StudyFrames], T]) -> T:
        """`compute(self)`, kept under the name: several tables need it, and the tables of a study do not change."""
        if name not in self._computed:
            self._computed[name] = compute(self)
        value: T = self._computed[name]
        return value

    @property
    def size_names(self) -> list[str]:
        """Every size in any table, smallest first."""
        return unique([*self.sizes["size"], *self.trials["size"], *self.benchmarks["size"]])

    @property
    def targets(self) -> list[str]:
        """Target tasks in the study's order, then any others that were scored."""
        return unique([*self.context["targets"], *self.scores["task"]])

    @property
    def intermediates(self) -> list[str]:
        """Intermediate tasks in the study's order, including "none" where it was tried."""
        return unique([*self.context["intermediates"], *(name for name in self.trials["intermediate"] if name)])

    @cached_property
    def languages(self) -> list[str]:
        """Every language with a test score, English first, then by code."""
        codes = set(self.scores.loc[self.scores["split"] == "test", "language"]) - set(AGGREGATES)
        return sorted(codes, key=lambda code: (code != ENGLISH, code))

    @cached_property
    def judged_by(self) -> dict[str, str]:
        """The aggregate that verdicts on each target use, by target.

        Without English, the language every model is supervised in, where every trial scored on the target has that mean;
        else over all languages. All trials of a target thus average the same languages.
        """
        test = self.scores[(self.scores["split"] == "test") & self.scores["value"].notna()]
        scored: dict[str, dict[str, set[tuple[str, str]]]] = {}
        for row in test[test["language"].isin(AGGREGATES)].to_dict("records"):
            trials = scored.setdefault(row["task"], {name: set() for name in AGGREGATES})
            trials[row["language"]].add((row["size"], row["trial_id"]))
        return {
            task: MEAN_WITHOUT_ENGLISH if trials[MEAN_WITHOUT_ENGLISH] >= trials[MEAN] else MEAN
            for task, trials in scored.items()
        }

    def judged(self, split: str = "test", by: Mapping[str, str] | None = None) -> pd.DataFrame:
        """The rows of `scores` that verdicts use, one per trial and target, aggregated as `by` (default `judged_by`) says."""
        by = self.judged_by if by is None else by
        rows = self.scores[self.scores["split"] == split]
        if split == "dev":
            return rows[rows["language"] == MEAN]
        return rows_where(rows, (by.get(t) == mean for t, mean in zip(rows["task"], rows["language"], strict=True)))

    @property
    def judged_languages(self) -> str:
        """Which languages the verdicts cover, as a phrase."""
        return languages_in_words(self.judged_by)

    @property
    def searched(self) -> pd.DataFrame:
        """The trials of the search, without repeats."""
        return self.trials[self.trials["kind"] == "trial"]

    @property
    def body_m(self) -> dict[str, float]:
        """Body parameters in millions by size, where known."""
        known = self.sizes.dropna(subset=["params_body_m"])
        return dict(zip(known["size"], known["params_body_m"], strict=True))

    @cached_property
    def encoders(self) -> dict[str, str]:
        """The published encoder of each size that has one and recorded it."""
        pairs = zip(self.sizes["size"], self.sizes["encoder"], strict=True)
        return {size: encoder for size, encoder in pairs if isinstance(encoder, str) and encoder}

    def seen(self, size: str, target: str, intermediate: str = NONE) -> str:
        """What of the target's data the size's encoder was trained on before, else "".

        It is the encoder that the targets start from with the intermediate choice: some choices have a checkpoint of their own.
        """
        seen = self._seen.get(size, {}).get(target, ""), self._seen_by_arm(size, intermediate, target)
        return ", ".join(unique(name for names in seen for name in names.split(", ") if name))

    @cached_property
    def _seen(self) -> dict[str, dict[str, str]]:
        pairs = zip(self.sizes["size"], self.sizes["seen"], strict=True)
        return {size: seen for size, seen in pairs if isinstance(seen, dict)}

    def members(self, intermediate: str) -> tuple[str, ...]:
        """The tasks whose training data an intermediate choice reads; () where the study did not record them."""
        return tuple(self._arms.get(intermediate, {}).get("members", ()))

    def trained_languages(self, intermediate: str) -> tuple[str, ...]:
        """Languages besides English in which an intermediate choice is known to have labelled training data."""
        return tuple(self._arms.get(intermediate, {}).get("languages") or ())

    def languages_unknown(self, intermediate: str) -> bool:
        """Whether the languages of its labelled training data are unknown: a checkpoint whose card does not state them."""
        arm = self._arms.get(intermediate, {})
        return "languages" in arm and arm["languages"] is None

    def not_zero_shot(self, intermediate: str, target: str) -> tuple[str, ...]:
        """The target's languages besides English in which the choice is known to have labelled training data."""
        return tuple(name for name in self.trained_languages(intermediate) if name in self._tested.get(target, ()))

    def not_zero_shot_in_words(self, intermediate: str, targets: Iterable[str]) -> str:
        """`not_zero_shot` over these targets, with commas; `UNKNOWN` where it is; "" where the choice is zero-shot on all."""
        if self.languages_unknown(intermediate):
            return UNKNOWN
        return ", ".join(unique(name for target in targets for name in self.not_zero_shot(intermediate, target)))

    @cached_property
    def _tested(self) -> dict[str, set[str]]:
        """The languages of each target's test."""
        tests = self.scores[self.scores["split"] == "test"]
        return {str(task): set(languages) - set(AGGREGATES) for task, languages in tests.groupby("task")["language"]}

    @property
    def _arms(self) -> dict[str, dict[str, Any]]:
        arms: dict[str, dict[str, Any]] = self.context.get("arms") or {}
        return arms

    def _seen_by_arm(self, size: str, intermediate: str, target: str) -> str:
        return str(self._seen_by_arms.get(size, {}).get(intermediate, {}).get(target, ""))

    @cached_property
    def _seen_by_arms(self) -> dict[str, dict[str, dict[str, str]]]:
        pairs = zip(self.sizes["size"], self.sizes["seen_by_arm"], strict=True)
        return {size: seen for size, seen in pairs if isinstance(seen, dict)}

    def contamination_flag(self, size: str, intermediate: str, target: str) -> str:
        """Why the gain of this cell is not transfer: "same data", "leak" or "seen"; "" where it is.

        "seen": the checkpoint of the intermediate choice was trained by others on data of the target.
        """
        flag = str(self.context["marks"].get(intermediate, {}).get(target, ""))
        return flag or ("seen" if self._seen_by_arm(size, intermediate, target) else "")
