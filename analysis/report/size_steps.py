"""What a bigger size buys: from the cheapest size to the best, by way of the best trade, and on to the most expensive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.store.counted import chosen_trials
from analysis.store.frames import NONE, StudyFrames, zero_shot
from analysis.tables.budget import Difference, compare_configurations
from analysis.tables.tradeoff import comparable_groups, configurations


@dataclass(frozen=True)
class SizeStep:
    """Two sizes in one serving variant on one hardware ("" where nothing was served), and the difference of their mean scores.

    `plain`: both without an intermediate task, else each with the one it was served with. Latencies are p50 in ms, NaN where
    not measured.
    """

    start: str
    end: str
    variant: str
    hardware: str
    plain: bool
    difference: Difference
    start_ms: float
    end_ms: float

    @property
    def seeds(self) -> int:
        """The number of seeds that both sizes were trained with: the difference is of these."""
        return self.difference.seeds

    @property
    def cost_ratio(self) -> float:
        """How many times the latency of `start` `end` has."""
        return self.end_ms / self.start_ms

    @property
    def tested(self) -> bool:
        """Whether the interval covers the spread over seeds."""
        return self.seeds > 1 and not math.isnan(self.difference.low)

    @property
    def told(self) -> bool:
        """Whether the interval is on one side of zero and covers the spread over seeds."""
        return self.tested and (self.difference.low > 0 or self.difference.high < 0)


def why_untested(step: SizeStep) -> str:
    """Why no verdict is given on a step that is not `tested`."""
    if step.seeds > 1:
        return "no interval"
    return "one seed" if step.seeds else "no shared seed"


def size_steps(frames: StudyFrames) -> list[SizeStep]:
    """From the cheapest size to the one with the highest mean score, and from that to the most expensive; [] for one size.

    Where a size between the first two has a larger share of the gain than of the cost (`_best_trade`), the way goes by it.
    Sizes are compared without an intermediate task where every one of them has such a score, in the serving variant that most
    sizes share, on the hardware with most of them. Where nothing was served: each size's trial without an intermediate task
    that is best on English dev, in order of size.
    """
    served = _served(frames)
    rows = (
        served if len(served) > 1 else _unserved(frames)
    )  # one served size cannot be compared; the scores of several can
    if len(rows) < 2:
        return []
    best = max(range(len(rows)), key=lambda place: (rows[place]["seed_mean"], -place))
    places = sorted({0, best or len(rows) - 1, *_best_trade(rows[: best + 1]), *([len(rows) - 1] if best else [])})
    return [_step(frames, rows[start], rows[end]) for start, end in pairwise(places)]


def _best_trade(rows: list[dict[str, Any]]) -> list[int]:
    """The place between the cheapest and the best row that is furthest above the line between them; [] if none is above it.

    The line is straight in score and in the logarithm of the latency: on it, each doubling of latency buys as much as the next.
    """
    first, last = rows[0], rows[-1]
    if len(rows) < 3 or first["p50_ms"] == last["p50_ms"]:
        return []

    def above(place: int) -> float:
        row = rows[place]
        gained = (row["seed_mean"] - first["seed_mean"]) / (last["seed_mean"] - first["seed_mean"])
        return float(gained - math.log(row["p50_ms"] / first["p50_ms"]) / math.log(last["p50_ms"] / first["p50_ms"]))

    best = max(range(1, len(rows) - 1), key=above)
    return [best] if above(best) > 0 else []


def _step(frames: StudyFrames, start: dict[str, Any], end: dict[str, Any]) -> SizeStep:
    return SizeStep(
        start=start["size"],
        end=end["size"],
        variant=start["variant"],
        hardware=start["hardware"],
        plain=start["intermediate"] == end["intermediate"] == NONE,
        difference=compare_configurations(frames, end, start),
        start_ms=start["p50_ms"],
        end_ms=end["p50_ms"],
    )


def _served(frames: StudyFrames) -> list[dict[str, Any]]:
    """One configuration per size, the fastest first."""
    served = configurations(frames)
    served = served[served["score"].notna() & served["p50_ms"].notna()]
    if served.empty:
        return []
    rows = max(comparable_groups(served, "p50_ms"), key=lambda group: group["size"].nunique())
    sizes = rows.groupby("variant", sort=False)["size"].nunique()
    rows = rows[rows["variant"] == sizes.idxmax()]
    plain = rows[rows["intermediate"] == NONE]
    rows = plain if plain["size"].nunique() == rows["size"].nunique() else rows[~rows["baseline"]]
    rows = rows.drop_duplicates("size").sort_values("p50_ms", kind="stable")
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _unserved(frames: StudyFrames) -> list[dict[str, Any]]:
    """The same of trials, smallest size first; without costs."""
    judged_by, _ = zero_shot(frames.trials)
    scores = frames.scores[(frames.scores["split"] == "test") & (frames.scores["language"] == judged_by)]
    plain = chosen_trials(frames)
    plain = plain[plain["intermediate"] == NONE]
    trial_of = dict(zip(plain["size"], plain["trial_id"], strict=True))
    rows = []
    for size in frames.size_names:
        own = scores[(scores["size"] == size) & (scores["trial_id"] == trial_of.get(size)) & scores["value"].notna()]
        if own.empty:
            continue
        by_task = dict(zip(own["task"], own["value"].astype("float64"), strict=True))
        mean = float(pd.Series(by_task).mean())
        rows.append(
            {
                "size": size,
                "variant": "",
                "hardware": "",
                "trial_id": trial_of[size],
                "intermediate": NONE,
                "judged_by": judged_by,
            }
            | {"score": mean, "seed_mean": mean, "p50_ms": math.nan}
            | {"task_scores": by_task, "judged_scores": by_task}
        )
    return rows
