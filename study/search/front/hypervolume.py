"""The area under the front of accuracy against log latency, where each size has one latency.

Latency does not depend on what a trial chooses, so a size's best score is all that moves the front. The reference point is
accuracy at chance and twice the slowest size's latency: every size has a width, and twice as fast is worth the same at any
speed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

BEYOND_SLOWEST = math.log(2.0)


def fronts(scores: Mapping[str, float], positions: Mapping[str, float], *, chance: float) -> dict[str, float]:
    """By size, the best score in percent at its speed or faster; `chance` where there is none.

    Args:
        scores: the best of each size.
        positions: log latency of each size.
    """
    return {
        size: max([chance, *(scores[other] for other in scores if positions[other] <= position)])
        for size, position in positions.items()
    }


def hypervolume(scores: Mapping[str, float], positions: Mapping[str, float], *, chance: float) -> float:
    """The area between front and reference point, in percentage points times log latency."""
    front = fronts(scores, positions, chance=chance)
    order = sorted(positions, key=positions.__getitem__)
    ends = [*(positions[size] for size in order[1:]), positions[order[-1]] + BEYOND_SLOWEST]
    return sum((end - positions[size]) * (front[size] - chance) for size, end in zip(order, ends, strict=True))
