"""Claims of earlier work on intermediate training, graded by a study's gains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analysis.report.findings import Findings
from analysis.store.frames import StudyFrames, rows_where
from analysis.tables.averages import mean_example_variance, transfer_pairs
from analysis.tables.formatting import interval, signed
from analysis.tables.inference import infer
from analysis.tables.selection.candidates import ENGLISH_DEV, ZERO_SHOT
from analysis.tables.selection.costs import ALL_TARGETS

Verdict = Literal["supported", "not supported", "cannot be told"]
MASKED_LM = "masked_lm"  # how the names of tasks of masked language modelling end
QUESTIONS, RETRIEVAL = ("tydiqa", "xquad_from_tydiqa"), ("tatoeba",)


@dataclass(frozen=True)
class Claim:
    """What was claimed, whether this study supports it, and the figures that say so."""

    claim: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Mean:
    """A mean difference of a size over `cells` and seeds, with its 95% interval; `tested` if that covers several seeds."""

    size: str
    value: float
    low: float
    high: float
    seeds: int
    cells: int

    @property
    def tested(self) -> bool:
        return self.seeds > 1 and not math.isnan(self.low)

    def __str__(self) -> str:
        spread = interval(self.low, self.high) if self.tested else "(one seed)" if self.seeds == 1 else ""
        return f"{self.size}: mean {signed(self.value)} {spread}".rstrip()


def claims(findings: Findings) -> list[Claim]:
    """Each claim on its own, graded by the sizes that have several seeds: none is supported by a single one."""
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
    """For each target the task that is best there on English dev; where the two share data, the target is left out."""
    claim = "The best intermediate task for each target lifts the mean over targets (Phang et al. 2020: +5.4 on XTREME)"
    pairs = transfer_pairs(findings.frames, cells="tuned")
    means = []
    for row in findings.choices[findings.choices["choice"] == "best per target"].to_dict("records"):
        chosen = {tuple(named.split(": ")) for named in row["intermediate"].split("; ")}
        of_size = pairs[pairs["size"] == row["size"]]
        keys = zip(of_size["task"], of_size["intermediate"], strict=True)
        means += _means(findings.frames, rows_where(of_size, (key in chosen for key in keys)))
    evidence = "; ".join(f"{mean}, {mean.cells} targets" for mean in means)
    return Claim(claim, _verdict(means, rises=True), evidence)


def _mean_of(findings: Findings, tasks: tuple[str, ...], claim: str, *, rises: bool) -> Claim:
    """The gain averaged over intermediate tasks and these targets: of each size, over seeds."""
    pairs = transfer_pairs(findings.frames, cells="default")
    means = _means(findings.frames, pairs[pairs["task"].isin(tasks)])
    gained = findings.gained[findings.gained["task"].isin(tasks)]
    parts = []
    for mean in means:
        verdicts = gained.loc[gained["size"] == mean.size, "verdict"]
        tested = verdicts.isin(["gain", "loss", "tie", "unclear"]).sum()
        ups, downs = ((verdicts == name).sum() for name in ("gain", "loss"))
        counts = f", {ups} gains and {downs} losses of {tested} cells" if mean.tested else ""
        parts.append(f"{mean}{counts}")
    return Claim(claim, _verdict(means, rises=rises), "; ".join(parts))


def _means(frames: StudyFrames, pairs: pd.DataFrame) -> list[Mean]:
    """Of each size the mean difference over the cells (intermediate and target) that every seed has.

    A seed with which only some of the choices have been trained is left out: the others would not count.
    """
    found = []
    for size, every in pairs.groupby("size", sort=False):
        own = _of_whole_seeds(frames, str(size), every)
        cells = own.pivot_table(index="seed", columns=["intermediate", "task"], values="difference").dropna(
            axis="columns"
        )
        if cells.empty:
            continue
        counted = pd.MultiIndex.from_frame(own[["intermediate", "task"]]).isin(cells.columns)
        by_seed = cells.mean(axis="columns").to_numpy(dtype="float64")
        inferred = infer(
            [by_seed.mean()],
            [by_seed.var(ddof=1) if len(by_seed) > 1 else math.nan],
            df=[len(by_seed) - 1],
            seeds=[len(by_seed)],
            example_variances=[mean_example_variance(frames, own[counted], list(own["task"].unique()))],
        )
        interval_of_mean = float(inferred.low[0]), float(inferred.high[0])
        found.append(Mean(str(size), float(by_seed.mean()), *interval_of_mean, len(by_seed), cells.shape[1]))
    return found


def _of_whole_seeds(frames: StudyFrames, size: str, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs of the seeds that trained every choice, whether or not its runs collapsed; all pairs if no seed did."""
    wanted = set(pairs["intermediate"])
    trials = frames.trials[(frames.trials["size"] == size) & (frames.trials["outcome"] == "complete")]
    whole = [seed for seed, own in trials.groupby("seed") if wanted <= set(own["intermediate"])]
    return pairs[pairs["seed"].isin(whole)] if whole else pairs


def _dev_misleads(findings: Findings) -> Claim:
    """What the choice on English dev costs of each size, and how its order of the trials agrees with that on test."""
    claim = "English dev can choose poorly for other languages (Keung et al. 2020: up to 17 points)"
    table = findings.selection_costs
    table = table[(table["among"] == ZERO_SHOT) & (table["selector"] == ENGLISH_DEV) & (table["task"] == ALL_TARGETS)]
    rows = table[(table["scope"] == "one for all") & table["cost"].notna()].to_dict("records")
    parts = []
    for row in rows:
        seeds = "(one seed)" if math.isnan(row["p"]) else interval(row["low"], row["high"])
        rank = signed(_rank_correlation(findings.frames, row["size"]), 2)
        parts.append(f"{row['size']}: costs {signed(row['cost'])} {seeds}, rank correlation {rank}")
    tested = [row for row in rows if not math.isnan(row["p"])]
    verdict: Verdict = "cannot be told"
    if any(row["verdict"] == "costs" and row["cost"] > 1.0 for row in tested):
        verdict = "supported"
    elif tested and all(row["high"] < 1.0 for row in tested):
        verdict = "not supported"
    return Claim(claim, verdict, "; ".join(parts))


def _rank_correlation(frames: StudyFrames, size: str) -> float:
    """Spearman's between English dev and test without English over a size's trials: the mean over seeds."""
    trials = frames.trials[(frames.trials["size"] == size) & frames.trials["test_score_without_english"].notna()]
    ranks = [
        own["dev_score"].corr(own["test_score_without_english"], method="spearman")
        for _, own in trials.groupby("seed")
        if len(own) > 2
    ]
    return sum(ranks) / len(ranks) if ranks else math.nan


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
    both = both.assign(difference=both["difference"] - both["difference_other"], trial_id_none=both["trial_id_other"])
    means = _means(findings.frames, both)
    evidence = "; ".join(f"{mean} against {other}" for mean in means)
    return Claim(claim, _verdict(means, rises=True), evidence)


def _verdict(means: list[Mean], *, rises: bool) -> Verdict:
    """Supported where the interval of every tested size is on the claimed side of zero, not supported if on the other."""
    tested = [mean for mean in means if mean.tested]
    if not tested:
        return "cannot be told"
    above, below = all(mean.low > 0 for mean in tested), all(mean.high < 0 for mean in tested)
    if above or below:
        return "supported" if above == rises else "not supported"
    return "cannot be told"
