"""How long work takes that sizes do side by side, how likely a trial gets to a target, and durations in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from study.search.slots import Amounts, shares
from study.spec import Choice, Size, Study

_UNITS = (
    (1.0, "second", 10.0),
    (60.0, "minute", 1.0),
    (3600.0, "hour", 0.5),
)  # seconds, name, and the step of rounding
_MOST = 100  # of a unit; a longer duration is in the next


@dataclass(frozen=True)
class SizeWork:
    """What is left of a size's trials: their number, and the seconds of all of them one after the other."""

    trials: int
    seconds: float


def side_by_side_s(
    work: Mapping[str, SizeWork], requests: Mapping[str, Amounts], *, capacity: Amounts, limits: Mapping[str, int] = {}
) -> float:
    """How long the sizes' trials take together, with slots divided as searches divide them.

    A size that does not fit beside the others waits; one that asks for more than there is gets everything.
    """
    left = {name: size.seconds for name, size in work.items() if size.trials and size.seconds > 0}
    requests = {
        name: {resource: min(amount, capacity.get(resource, amount)) for resource, amount in requests[name].items()}
        for name in left
    }
    elapsed_s = 0.0
    while left:
        wanted = {name: min(work[name].trials, limits.get(name) or work[name].trials) for name in left}
        slots = shares(capacity, {name: requests[name] for name in left}, wanted=wanted)
        if not any(slots.values()):
            return elapsed_s + sum(left.values())
        step_s = min(left[name] / count for name, count in slots.items() if count)
        elapsed_s += step_s
        left = {name: seconds - step_s * slots[name] for name, seconds in left.items()}
        left = {name: seconds for name, seconds in left.items() if seconds > 1e-9}
    return elapsed_s


def about(low_s: float, high_s: float | None = None) -> str:
    """A duration, or a range, in words: as precise as an estimate can be."""
    high_s = low_s if high_s is None else high_s
    if high_s < 25:
        return "less than half a minute"
    unit, name, step = next((units for units in _UNITS if high_s < units[0] * _MOST), _UNITS[-1])
    low, high = (max(step, round(seconds / unit / step) * step) for seconds in (low_s, high_s))
    plural = "" if high == 1 else "s"
    return f"about {high:g} {name}{plural}" if low == high else f"about {low:g} to {high:g} {name}{plural}"


def chance_of_target(study: Study, size: Size, choice: Choice, index: int) -> float:
    """How likely a trial trains the target with this index: ASHA keeps one in `reduction_factor` at each rung before it.

    Default cells and repeats are never stopped.
    """
    space = study.space_of(size)
    if space.is_default(choice) or choice.seed not in (None, *space.seeds):
        return 1.0
    chance, rung = 1.0, study.first_rung
    while rung <= index:
        chance /= study.reduction_factor
        rung *= study.reduction_factor
    return chance
