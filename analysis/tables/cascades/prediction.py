"""Cascades: a smaller model answers where it is sure, a larger one elsewhere. What stored confidences predict of them.

The model's own confidence decides, as in Varshney and Baral (2022, arXiv:2210.05528); Chen et al. (2023, FrugalGPT,
arXiv:2305.05176) cascade services by a score that they train. A threshold is chosen on English dev. Zero-shot, confidence means
something else in languages far from English (Ahuja et al. 2022, arXiv:2210.12265): there the smaller model answers another
share, and what is lost differs. Both are given by language.

Retrieval does not cascade, since its vectors are compared with an index that one model has made. The smaller model serves it
alone: the larger one's score would not be what the cascade's time pays for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.store.examples import CONFIDENCE, Floats, ratios
from analysis.store.frames import ENGLISH
from analysis.tables.tradeoff import BEYOND_DOUBLINGS, hypervolume

ALWAYS, NEVER = (
    0.0,
    2.0,
)  # thresholds at which the smaller model answers everything, and nothing: confidence is from 0 to 1
SMALL = "small"  # a column of a served cascade's examples: 1 where the smaller model answered


@dataclass(frozen=True)
class PairedSet:
    """The same examples as two models answer them, and how sure the smaller one is of each.

    Sums have a row an example and the columns numerator and denominator: the ratio of their totals is the score as a fraction.
    """

    confidence: Floats
    small_sums: Floats
    large_sums: Floats

    def answered(self, threshold: float) -> np.ndarray:
        """Where the smaller model answers."""
        return self.confidence >= threshold

    def score(self, threshold: float) -> float:
        """The cascade's score in percent."""
        return _percent(np.where(self.answered(threshold)[:, None], self.small_sums, self.large_sums).sum(axis=0))

    @cached_property
    def cuts(self) -> tuple[Floats, Floats, Floats]:
        """Each threshold that tells examples apart, with the share that the smaller model answers and the cascade's score.

        Shares ascend from 0 to 1. A threshold is half-way between two confidences: rounding moves no example over it.
        """
        order = np.argsort(-self.confidence, kind="stable")
        sure = self.confidence[order]
        ends = np.flatnonzero(np.append(sure[1:] < sure[:-1], True)) + 1  # examples of equal confidence stay together
        counts = np.concatenate([[0], ends])
        thresholds = np.concatenate([[NEVER], (sure[ends[:-1] - 1] + sure[ends[:-1]]) / 2, [ALWAYS]])
        gained = np.cumsum((self.small_sums - self.large_sums)[order], axis=0)
        totals = self.large_sums.sum(axis=0) + np.concatenate([np.zeros((1, 2)), gained])[counts]
        scores = np.array([_percent(total) for total in totals])
        return thresholds, counts / len(sure), scores


def threshold_within(dev: PairedSet, loss: float) -> float:
    """The threshold that lets the smaller model answer most, of those that lose at most `loss` points against the larger one.

    Of a development set in English, never of the languages that are tested.
    """
    thresholds, _, scores = dev.cuts
    return float(thresholds[np.flatnonzero(scores >= scores[0] - loss - 1e-9)[-1]])


def threshold_at(dev: PairedSet, share: float) -> float:
    """The threshold at which the smaller model answers this share of the examples, or as much below it as ties require."""
    thresholds, shares, _ = dev.cuts
    return float(thresholds[np.flatnonzero(shares <= share + 1e-9)[-1]])


@dataclass(frozen=True)
class Pair:
    """Two sizes' models on the same sets: those of the tasks that cascade, and the smaller one's scores on the others.

    `dev` has English dev by task, `tests` the tests by task and language; `alone` the smaller model's test scores in percent.
    """

    small: str
    large: str
    dev: Mapping[str, PairedSet]
    tests: Mapping[str, Mapping[str, PairedSet]]
    alone: Mapping[str, Mapping[str, float]]

    def thresholds(self, loss: float) -> dict[str, float]:
        """By task, those of `threshold_within`."""
        return {task: threshold_within(dev, loss) for task, dev in self.dev.items()}

    def thresholds_at(self, share: float) -> dict[str, float]:
        """By task, those of `threshold_at`."""
        return {task: threshold_at(dev, share) for task, dev in self.dev.items()}

    def dev_score(self, thresholds: Mapping[str, float]) -> float:
        """The mean English dev score over the tasks that cascade."""
        return float(np.mean([dev.score(thresholds[task]) for task, dev in self.dev.items()]))

    def test_score(self, thresholds: Mapping[str, float], *, with_english: bool) -> float:
        """The mean over tasks of the mean over languages; a task that has English alone counts only with it."""
        means = [
            _mean({language: of_set.score(thresholds[task]) for language, of_set in sets.items()}, with_english)
            for task, sets in self.tests.items()
        ]
        means += [_mean(scores, with_english) for scores in self.alone.values()]
        known = [mean for mean in means if not np.isnan(mean)]
        return float(np.mean(known)) if known else np.nan

    def test_share(self, task: str, threshold: float) -> float:
        """The share of a task's test examples, in all languages, that the smaller model answers."""
        return float(np.mean(np.concatenate([of_set.answered(threshold) for of_set in self.tests[task].values()])))


def pair_of(small: str, small_table: pd.DataFrame, large: str, large_table: pd.DataFrame) -> Pair | None:
    """The pair of two sizes from their tables of scores by example; None if no task that cascades is in both.

    A task cascades if the smaller model's confidence is known on its English dev examples and on all its tests, where the
    larger model has answered the same ones. The smaller model serves the others alone.
    """
    if CONFIDENCE not in small_table:
        return None
    dev: dict[str, PairedSet] = {}
    tests: dict[str, dict[str, PairedSet]] = {}
    alone: dict[str, dict[str, float]] = {}
    others = dict(_sets(large_table))
    for (task, split, language), rows in _sets(small_table):
        of_large = others.get((task, split, language))
        paired = None if of_large is None else _paired(rows, of_large)
        if paired is not None and split == "dev" and language == ENGLISH:
            dev[task] = paired
        elif paired is not None and split == "test":
            tests.setdefault(task, {})[language] = paired
        elif split == "test":
            alone.setdefault(task, {})[language] = _percent(np.column_stack(ratios(rows)).sum(axis=0))
    cascading = [
        task for task in tests if task in dev and task not in alone
    ]  # without English dev there is no threshold
    for task in tests.keys() - set(cascading):
        alone.setdefault(task, {}).update({language: of_set.score(ALWAYS) for language, of_set in tests[task].items()})
    if not cascading:
        return None
    return Pair(
        *(small, large),
        dev={task: dev[task] for task in cascading},
        tests={task: tests[task] for task in cascading},
        alone=alone,
    )


@dataclass(frozen=True)
class Candidate:
    """A pair as one serving variant serves it, with what English dev predicts: score in percent and mean latency in ms.

    `gain` is the hypervolume that it adds to the front of the single models in all variants, over log2 of latency; `saving` the
    share of the larger model's latency that it saves.
    """

    pair: Pair
    variant: str
    thresholds: Mapping[str, float]
    dev_score: float
    latency_ms: float
    gain: float
    saving: float


def predicted_ms(small_ms: float, large_ms: float, *, share: float) -> float:
    """Mean latency where the smaller model answers this share: the larger one adds its own where it is asked."""
    return small_ms + (1 - share) * large_ms


def candidates(
    pairs: Sequence[Pair], latencies: Mapping[str, Mapping[str, float]], *, timed_task: str, loss: float
) -> list[Candidate]:
    """The pairs that English dev predicts to be worth serving, best first. Nothing of the tests is read.

    `latencies` has each size's mean latency in ms by serving variant; the larger model of a pair must be the slower one. The
    order is by hypervolume, then by saving. A pair in which one model answers all dev examples of the timed task is left out.
    """
    found = []
    singles = [single for by_size in latencies.values() for single in _singles(pairs, by_size)]
    for variant, by_size in latencies.items():
        for pair in pairs:
            small_ms, large_ms = by_size.get(pair.small), by_size.get(pair.large)
            if small_ms is None or large_ms is None or small_ms >= large_ms or timed_task not in pair.dev:
                continue
            thresholds = pair.thresholds(loss)
            share = float(pair.dev[timed_task].answered(thresholds[timed_task]).mean())
            if share in (0.0, 1.0):
                continue
            latency_ms, score = predicted_ms(small_ms, large_ms, share=share), pair.dev_score(thresholds)
            gain = _gain((latency_ms, score), singles)
            found.append(Candidate(pair, variant, thresholds, score, latency_ms, gain, 1 - latency_ms / large_ms))
    return sorted(found, key=lambda candidate: (-candidate.gain, -candidate.saving))


def _singles(pairs: Sequence[Pair], by_size: Mapping[str, float]) -> list[tuple[float, float]]:
    """Latency and English dev score of each single model, over the tasks that cascade."""
    scores: dict[str, float] = {}
    for pair in pairs:
        scores[pair.small] = pair.dev_score(dict.fromkeys(pair.dev, ALWAYS))
        scores[pair.large] = pair.dev_score(dict.fromkeys(pair.dev, NEVER))
    return [(by_size[name], score) for name, score in scores.items() if name in by_size]


def _gain(point: tuple[float, float], singles: Sequence[tuple[float, float]]) -> float:
    """The hypervolume that a latency and score add to the single models', over log2 latency.

    The reference is a doubling beyond the slowest single model, with or without the point: what is dominated adds nothing.
    """
    slowest_ms = max(latency_ms for latency_ms, _ in singles)
    reference = (float(np.log2(slowest_ms)) + BEYOND_DOUBLINGS, 0.0)

    def area(points: Sequence[tuple[float, float]]) -> float:
        return hypervolume(
            np.log2([latency_ms for latency_ms, _ in points]), [score for _, score in points], reference=reference
        )

    return area([*singles, point]) - area(singles)


def _sets(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """The rows of each task, split and language, in the order of examples."""
    table = table if "split" in table else table.assign(split="test")
    for key, rows in table.sort_values("example", kind="stable").groupby(
        ["task", "split", "language"], sort=False, observed=True
    ):
        task, split, language = map(str, key)
        yield (task, split, language), rows


def _paired(small: pd.DataFrame, large: pd.DataFrame) -> PairedSet | None:
    """Both models' sums of the same examples; None without confidences, or for other examples."""
    if CONFIDENCE not in small or small[CONFIDENCE].isna().any() or list(small["example"]) != list(large["example"]):
        return None
    sums = (np.column_stack(ratios(rows)) for rows in (small, large))
    return PairedSet(small[CONFIDENCE].to_numpy(dtype="float64"), *sums)


def _mean(scores: Mapping[str, float], with_english: bool) -> float:
    values = [score for language, score in scores.items() if with_english or language != ENGLISH]
    return float(np.mean(values)) if values else np.nan


def _percent(total: Floats) -> float:
    numerator, denominator = total
    return 100.0 * float(numerator) / float(denominator) if denominator > 0 else 0.0
