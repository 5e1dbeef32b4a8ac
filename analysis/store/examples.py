"""Per-example sums behind the scores, and scores of bootstrap test sets.

Every metric of the study is a ratio of sums over examples, so one numerator and one denominator per example are enough:
accuracy is correct / total, average precision ap / total, a QA score (f1 + exact) / 2 / total, and span and mining F1
2 hits / (predicted + gold). A task's score is the unweighted mean of its languages' ratios.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Key = tuple[str, str]  # size, trial id

CONFIDENCE = "confidence"  # a column of an evaluation's examples: how sure the model is, from 0 to 1
RESAMPLES = 500  # gives a standard error to within 3% (1 / sqrt(2 * 500))


def ratios(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Numerator and denominator per row of an examples table; the ratio of their sums is the score as a fraction.

    Raises:
        ValueError: the columns belong to no known metric.
    """
    names_present = {name for name in table.columns if table[name].notna().any()}

    def column(name: str) -> Floats:
        return table[name].to_numpy(dtype="float64")

    if {"hits", "predicted", "gold"} <= names_present:
        return 2 * column("hits"), column("predicted") + column("gold")
    for names in (("f1", "exact"), ("correct",), ("ap",)):
        if {*names, "total"} <= names_present:
            return sum((column(name) for name in names), np.zeros(len(table))) / len(names), column("total")
    columns = ", ".join(sorted(names_present)) or "no columns"
    raise ValueError(f"per-example sums of no known metric: {columns}")


@dataclass
class Examples:
    """Per-example sums of trials, by (size, trial id). `read` returns a trial's table, or None where there is none.

    A table has the columns task, split, language, example and the sums of each task's metric. Each table is read once.
    `problems` records the tables that could not be used, with the reason.
    """

    read: Callable[[Key], pd.DataFrame | None] = lambda key: None
    resamples: int = RESAMPLES
    problems: dict[Key, str] = field(default_factory=dict)
    _sums: dict[Key, dict[str, dict[str, tuple[Floats, Floats]]]] = field(default_factory=dict)
    _draws: dict[tuple[Key, str, str], Floats | None] = field(default_factory=dict)

    @staticmethod
    def from_tables(tables: Mapping[Key, pd.DataFrame], resamples: int = RESAMPLES) -> Examples:
        """Examples from tables in memory."""
        return Examples(tables.get, resamples)

    def sums(self, key: Key) -> dict[str, dict[str, tuple[Floats, Floats]]]:
        """Numerators and denominators of the test examples in order, by task and language; empty without examples."""
        if key not in self._sums:
            try:
                table = self.read(key)
                self._sums[key] = {} if table is None else _by_task(table)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.problems[key] = f"{type(error).__name__}: {error}"
                self._sums[key] = {}
        return self._sums[key]

    def draws(self, key: Key, task: str, language: str = "mean") -> Floats | None:
        """Scores (percent) on `resamples` test sets drawn with replacement from the task's; None without examples.

        All trials see the same draws, so differences of draws are paired. `language` is a code, "mean", or "mean without en".
        Where all languages of a task have equally many examples, the same examples are drawn in each: they may be translations
        of each other. That is right for parallel sets, and neither biased nor wider on average for others.
        """
        request = (key, task, language)
        if request not in self._draws:
            by_language = self.sums(key).get(task, {})
            if language == "mean without en":
                by_language = {code: sums for code, sums in by_language.items() if code != "en"}
            elif language != "mean":
                by_language = {language: by_language[language]} if language in by_language else {}
            self._draws[request] = self._resampled(task, by_language) if by_language else None
        return self._draws[request]

    def _resampled(self, task: str, by_language: Mapping[str, tuple[Floats, Floats]]) -> Floats:
        by_count: dict[int, list[str]] = {}
        for language, (numerator, _) in by_language.items():
            by_count.setdefault(len(numerator), []).append(language)
        parallel = len(by_count) == 1
        total = np.zeros(self.resamples)
        for count, languages in by_count.items():
            for group in [languages] if parallel else [[language] for language in languages]:
                stream = task if parallel else f"{task}|{group[0]}"
                sums = np.stack([part for language in group for part in by_language[language]], axis=1)
                drawn = _weights(stream, count, self.resamples) @ sums.astype(np.float32)
                denominators = drawn[:, 1::2]
                safe = np.zeros_like(denominators)
                total += np.divide(drawn[:, 0::2], denominators, out=safe, where=denominators > 0).sum(axis=1)
        return 100.0 * total / len(by_language)


def _by_task(table: pd.DataFrame) -> dict[str, dict[str, tuple[Floats, Floats]]]:
    test = table[table["split"] == "test"] if "split" in table else table
    by_task: dict[str, dict[str, tuple[Floats, Floats]]] = {}
    for task, of_task in test.groupby("task", sort=False):
        rows = of_task.sort_values("example", kind="stable")
        numerator, denominator = ratios(rows)
        rows_of = rows.reset_index(drop=True).groupby("language", sort=False).indices
        by_task[str(task)] = {str(language): (numerator[at], denominator[at]) for language, at in rows_of.items()}
    return by_task


@lru_cache(maxsize=128)
def _weights(stream: str, count: int, resamples: int) -> npt.NDArray[np.float32]:
    """How often each of `count` examples is drawn, one row per resample. The seed is the stream's name, so trials share draws.

    Cached because every trial of a study asks for it; a thousand examples take 2 MB.
    """
    random = np.random.default_rng(zlib.crc32(f"{stream}|{count}".encode()))
    return random.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float32)
