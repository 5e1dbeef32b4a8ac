"""Claims of earlier work on intermediate training, graded by a study's gains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.report.findings import Findings
from analysis.tables.averages import transfer_pairs
from analysis.tables.formatting import interval, signed
from analysis.tables.gains import seed_variances
from analysis.tables.inference import infer

Verdict = Literal["supported", "not supported", "cannot be told"]
MASKED_LM = "masked_lm"  # how the names of tasks of masked language modelling end
QUESTIONS, RETRIEVAL = ("tydiqa", "xquad_from_tydiqa"), ("tatoeba",)


@dataclass(frozen=True)
class Claim:
    """What was claimed, whether this study supports it, and the figures that say so."""

    claim: str
    verdict: Verdict
    evidence: str


def claims(findings: Findings) -> list[Claim]:
    """Each claim on its own; none is supported by a single seed."""
    return [
        _best_per_target(findings),
        _mean_of(
            findings, QUESTIONS, "Question answering gains from an intermediate task (Phang et al. 2020)", rises=True
        ),
        _mean_of(
            findings, RETRIEVAL, "Sentence retrieval gains from an intermediate task (Phang et al. 2020)", rises=True
        ),
        _mean_of(
            findings,
            ("uner_dev_as_train",),
            "Named-entity recognition loses (X-STILTs' figures in RemBERT)",
            rises=False,
        ),
        _dev_misleads(findings),
        _smaller_gain(findings),
        *_masked_text(findings),
    ]


def _best_per_target(findings: Findings) -> Claim:
    claim = "The best intermediate task for each target lifts the mean over targets (Phang et al. 2020: +5.4 on XTREME)"
    table = findings.choices[findings.choices["choice"] == "best per target"]
    evidence = "; ".join(
        f"{row['size']}: {signed(row['gain'])} {interval(row['low'], row['high']) or 'without interval'}"
        for row in table.to_dict("records")
    )
    return Claim(claim, _verdict(table["low"], table["high"], seeds=table["seeds"]), evidence)


def _mean_of(findings: Findings, tasks: tuple[str, ...], claim: str, *, rises: bool) -> Claim:
    """The gain averaged over intermediate tasks and these targets: of each size, over seeds."""
    gained = findings.gained
    own = gained[gained["task"].isin(tasks) & gained["gain"].notna() & (gained["mark"] == "")]
    parts, lows, highs, seeds = [], [], [], []
    for size, group in own.groupby("size", sort=False):
        tested = group[group["verdict"].isin(["gain", "loss", "tie", "unclear"])]
        ups, downs = ((tested["verdict"] == name).sum() for name in ("gain", "loss"))
        parts.append(
            f"{size}: mean {signed(group['gain'].mean())}, {ups} gains and {downs} losses of {len(group)} cells"
        )
        lows.append(1.0 if ups and not downs else -1.0)
        highs.append(-1.0 if downs and not ups else 1.0)
        seeds.append(int(group["n"].max()))
    low, high = (pd.Series(values, dtype="float64") for values in (lows, highs))
    sides = (low, high) if rises else (-high, -low)
    return Claim(claim, _verdict(*sides, seeds=pd.Series(seeds, dtype="int64")), "; ".join(parts))


def _dev_misleads(findings: Findings) -> Claim:
    """By size and seed: how far the choice on English dev stays below the best one on test, which is partly luck itself."""
    claim = "English dev can choose poorly for other languages (Keung et al. 2020: up to 17 points)"
    trials = findings.frames.trials[findings.frames.trials["test_score_without_english"].notna()]
    parts, lost = [], []
    for size, of_size in trials.groupby("size", sort=False):
        regrets, ranks = [], []
        for _, own in of_size.groupby("seed"):
            if len(own) < 3:
                continue
            test = own.sort_values("dev_score", kind="stable")["test_score_without_english"]
            regrets.append(test.max() - test.iloc[-1])
            ranks.append(own["dev_score"].corr(own["test_score_without_english"], method="spearman"))
        if regrets:
            listed = ", ".join(f"{regret:.1f}" for regret in regrets)
            rank = signed(sum(ranks) / len(ranks), 2)
            parts.append(f"{size}: {listed} points below the best on test, rank correlation {rank}")
            lost.append(regrets)
    if not lost or min(map(len, lost)) < 2:
        return Claim(claim, "cannot be told", "; ".join(parts))
    return Claim(
        claim, "supported" if any(min(regrets) > 1.0 for regrets in lost) else "not supported", "; ".join(parts)
    )


def _smaller_gain(findings: Findings) -> Claim:
    table = findings.interactions
    claim = "Larger encoders gain less from an intermediate task (not measured before)"
    row = table[table["intermediate"] == "all"]
    if row.empty:
        return Claim(claim, "cannot be told", "one size only")
    slope, low, high = (float(row[name].iloc[0]) for name in ("slope", "low", "high"))
    verdict: Verdict = "cannot be told"
    if pd.notna(low):
        verdict = "supported" if high < 0 else "not supported" if low > 0 else "cannot be told"
    return Claim(claim, verdict, f"{signed(slope, 2)} points per doubling of the body {interval(low, high, 2)}".strip())


def _masked_text(findings: Findings) -> Iterator[Claim]:
    """A claim for each choice with masked language modelling that the study also has without it."""
    frames = findings.frames
    by_members = {frames.members(name): name for name in frames.intermediates}
    for name in frames.intermediates:
        labelled = tuple(task for task in frames.members(name) if not task.endswith(MASKED_LM))
        if labelled != frames.members(name) and labelled in by_members:
            yield _difference(
                findings,
                name,
                by_members[labelled],
                f"Masked language modelling beside the intermediate task helps (tried by Phang et al. 2020): {name}",
            )


def _difference(findings: Findings, intermediate: str, other: str, claim: str) -> Claim:
    """Whether an intermediate choice scores higher than another: mean over targets, paired by seed, of each size."""
    pairs = transfer_pairs(findings.frames, cells="default")
    keys = ["size", "task", "language", "seed"]
    both = pairs[pairs["intermediate"] == intermediate].merge(
        pairs[pairs["intermediate"] == other], on=keys, suffixes=("", "_other")
    )
    both = both.assign(difference=both["difference"] - both["difference_other"])
    by_size = {str(size): own.groupby("seed")["difference"].mean() for size, own in both.groupby("size", sort=False)}
    means = [by_seed.mean() for by_seed in by_size.values()]
    seeds = [len(by_seed) for by_seed in by_size.values()]
    variances, df = seed_variances([by_seed.to_dict() for by_seed in by_size.values()], by_size)
    unknown = [math.nan] * len(means)
    inferred = infer(np.array(means), variances, df=df, seeds=seeds, example_variances=unknown)
    evidence = "; ".join(
        f"{size}: {signed(mean)} against {other} {interval(low, high) or 'without interval'}"
        for size, mean, low, high in zip(by_size, means, inferred.low, inferred.high, strict=True)
    )
    verdict = _verdict(pd.Series(inferred.low), pd.Series(inferred.high), seeds=pd.Series(seeds, dtype="int64"))
    return Claim(claim, verdict, evidence)


def _verdict(low: pd.Series[float], high: pd.Series[float], *, seeds: pd.Series[int]) -> Verdict:
    """Supported where every size's interval is above zero, not supported where every one is below; over two seeds at least."""
    if low.empty or low.isna().any() or seeds.min() < 2:
        return "cannot be told"
    if (low > 0).all():
        return "supported"
    return "not supported" if (high < 0).all() else "cannot be told"
