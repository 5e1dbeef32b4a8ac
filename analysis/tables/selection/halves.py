"""Scores of candidates on random halves of the test examples, so that what is best on one half is judged on the other.

The best of several noisy scores exceeds its own mean. A gap to the best trial on the same examples is therefore positive even
among equal trials; the gap on examples that took no part in the choice is not.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.store.examples import Floats
from analysis.store.frames import ENGLISH, MEAN_WITHOUT_ENGLISH, StudyFrames
from analysis.tables.selection.candidates import ZERO_SHOT, Among, Candidates, candidates_of

SPLITS = 20  # random ways to halve the test examples; the spread between ways is then below the error over examples

Sums = Mapping[str, tuple[Floats, Floats]]  # numerators and denominators of the examples by language


@dataclass(frozen=True)
class TargetScores:
    """K candidates on one target, in percent; F runs judge each, over S splits in two halves.

    `whole`: scores of the judging runs on all examples, (K, F). `chosen`: of the candidates themselves by half, (2, S, K);
    `judged`: of the judging runs, (2, S, K, F). `covariance`: of the candidates' mean judged scores over test examples, (K, K).
    The last three are None without scores by example.
    """

    whole: Floats
    chosen: Floats | None = None
    judged: Floats | None = None
    covariance: Floats | None = None

    @property
    def with_examples(self) -> bool:
        return self.covariance is not None


def candidates_with_scores(
    frames: StudyFrames, size: str, among: Among = ZERO_SHOT
) -> tuple[Candidates, list[TargetScores]] | None:
    """The candidates of a size and their scores on each of their targets, computed once; None if there is no choice."""

    def compute(frames: StudyFrames) -> tuple[Candidates, list[TargetScores]] | None:
        candidates = candidates_of(frames, size, among)
        if candidates is None:
            return None
        return candidates, [target_scores(frames, candidates, task) for task in candidates.tasks]

    return frames.once(f"candidates with scores: {size}, {among}", compute)


def target_scores(frames: StudyFrames, candidates: Candidates, task: str) -> TargetScores:
    """The scores that choices are judged by on a target, averaged over languages as `StudyFrames.judged_by` says."""
    judged = frames.judged()
    own = judged[(judged["size"] == candidates.size) & (judged["task"] == task)]
    scores = dict(zip(own["trial_id"], own["value"], strict=True))
    whole = np.array([[scores[run] for run in runs] for runs in candidates.runs])
    names = list(dict.fromkeys([*candidates.trials, *(run for runs in candidates.runs for run in runs)]))
    sums = [_sums(frames, (candidates.size, name), task) for name in names]
    if not _comparable(sums):
        return TargetScores(whole)
    halves_2SR, influences = _halves(task, sums)
    place = {name: position for position, name in enumerate(names)}
    judges_KF = np.array([[place[run] for run in runs] for runs in candidates.runs])
    covariance = np.zeros((len(judges_KF), len(judges_KF)))
    for influence_NR in influences:
        of_candidates_NK = influence_NR[:, judges_KF].mean(axis=2)
        count = len(of_candidates_NK)
        covariance += of_candidates_NK.T @ of_candidates_NK * count / (count - 1)
    own_R = [place[trial] for trial in candidates.trials]
    return TargetScores(whole, halves_2SR[:, :, own_R], halves_2SR[:, :, judges_KF], covariance)


def _sums(frames: StudyFrames, key: tuple[str, str], task: str) -> Sums:
    sums = frames.examples.sums(key).get(task, {})
    if frames.judged_by[task] == MEAN_WITHOUT_ENGLISH:
        return {language: of_language for language, of_language in sums.items() if language != ENGLISH}
    return sums


def _comparable(sums: Sequence[Sums]) -> bool:
    """Whether every run has the same examples, at least two in each language."""
    counts = [{language: len(numerator) for language, (numerator, _) in of_run.items()} for of_run in sums]
    return bool(counts[0]) and min(counts[0].values()) > 1 and all(of_run == counts[0] for of_run in counts)


def _halves(task: str, sums: Sequence[Sums]) -> tuple[Floats, list[Floats]]:
    """Scores of R runs by half and split (2, S, R), and each example's part in their error over examples (N, R).

    Where all languages have equally many examples, the same ones are drawn in each, as in `Examples.draws`: the parts of an
    example are then added up over languages. The part is the linear term of a ratio of sums (delta method).
    """
    languages = list(sums[0])
    sizes = {len(sums[0][language][0]) for language in languages}
    parallel = len(sizes) == 1
    total = np.zeros((2, SPLITS, len(sums)))
    parts: dict[str, Floats] = {}
    for language in languages:
        numerator_NR, denominator_NR = (
            np.stack([of_run[language][side] for of_run in sums], axis=1) for side in (0, 1)
        )
        stream = task if parallel else f"{task}|{language}"
        first_SN = _first_half(stream, len(numerator_NR))
        for half, mask_SN in enumerate((first_SN, 1.0 - first_SN)):
            total[half] += _ratio(mask_SN @ numerator_NR, mask_SN @ denominator_NR)
        sum_R = denominator_NR.sum(axis=0)
        residual_NR = numerator_NR - _ratio(numerator_NR.sum(axis=0), sum_R) * denominator_NR
        part = 100.0 * _ratio(residual_NR, np.broadcast_to(sum_R, residual_NR.shape)) / len(languages)
        key = "all" if parallel else language
        parts[key] = parts[key] + part if key in parts else part
    return 100.0 * total / len(languages), list(parts.values())


def _first_half(stream: str, count: int) -> Floats:
    """1 where an example is in the first half of a split: (S, N). The seed is the stream's name, so all runs share splits."""
    random = np.random.default_rng(zlib.crc32(f"{stream}|{count}|halves".encode()))
    order = np.argsort(random.random((SPLITS, count)), axis=1)
    return (order < count // 2).astype("float64")


def _ratio(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> Floats:
    """0 where there is nothing to divide by, as a score without predictions and gold is."""
    result: Floats = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return result
