"""A budget of time or money: no trial starts after which the study would not end within it.

A budget is of all runs of the command together, so a larger one resumes what a smaller one left out. It is no part of the
study's identity.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from study.planning.estimate.study_estimate import StudyEstimate
from study.search.records import SearchResult
from study.search.slots import trial_request
from study.spec import Size, Study
from study.spec.space import Choice
from trainables.benchmark.measurement import CASCADE
from trainables.store.atomic import write_text

SPENT = "spent_s.txt"  # in the output folder: seconds of all runs of the command
BENCHMARKS = "spent_benchmarks_s.json"  # in the output folder: seconds of all runs' benchmarks, by size
LONGEST_S = 1e12  # that a file can say
HEADROOM = 1.1  # times what is expected until the end: estimates err


@dataclass(frozen=True)
class Budget:
    """An amount that a study may spend.

    Attributes:
        limit: of it.
        spent: so far.
        to_end: what the study still spends if nothing starts but this trial of this size; None where nothing tells it yet.
    """

    limit: float
    spent: Callable[[], float]
    to_end: Callable[[str, Choice], float | None]

    def allows(self, size: str, choice: Choice) -> bool:
        """Whether the study ends within the budget if this trial starts."""
        needed = self.to_end(size, choice)
        return needed is None or self.spent() + HEADROOM * needed <= self.limit


def all_allow(budgets: Sequence[Budget]) -> Callable[[str, Choice], bool]:
    """Whether every budget allows a trial of a size."""
    return lambda size, choice: all(budget.allows(size, choice) for budget in budgets)


class Spent:
    """Seconds of all runs of the command in an output folder, and of their benchmarks; the caller holds the folder's lock."""

    def __init__(self, output: Path, clock: Callable[[], float]) -> None:
        """`clock` tells the seconds of this run. A file that cannot be read counts nothing."""
        self._output, self._clock = output, clock
        self._before = _seconds(_read(output / SPENT)) or 0.0
        stored = _read(output / BENCHMARKS)
        by_name = stored if isinstance(stored, dict) else {}
        self._benchmarks = {
            str(name): known for name, value in by_name.items() if (known := _seconds(value)) is not None
        }
        self._running: tuple[str, float] | None = None  # a benchmark, and since when

    @property
    def seconds(self) -> float:
        return self._before + self._clock()

    @property
    def benchmark_s(self) -> dict[str, float]:
        """Seconds of benchmarks by size, and of the `CASCADE`; the one that runs counts up to now."""
        if self._running is None:
            return dict(self._benchmarks)
        name, since_s = self._running
        return self._benchmarks | {name: self._benchmarks.get(name, 0.0) + self._clock() - since_s}

    @contextlib.contextmanager
    def benchmark(self, name: str) -> Iterator[None]:
        """A size, or the `CASCADE`, is benchmarked in this block, whatever ends it."""
        self._running = name, self._clock()
        try:
            yield
        finally:
            self._benchmarks, self._running = self.benchmark_s, None
            self.store()

    def store(self) -> None:
        """Write the seconds so far. A full disk is reported by what else cannot be written."""
        with contextlib.suppress(OSError):
            write_text(self._output / SPENT, f"{self.seconds:.1f}\n")
            if benchmarks := self.benchmark_s:
                rounded = {name: round(seconds, 1) for name, seconds in benchmarks.items()}
                write_text(self._output / BENCHMARKS, json.dumps(rounded) + "\n")


def _read(path: Path) -> Any:
    """The JSON value in the file; None where it cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def _seconds(value: object) -> float | None:
    """The value as seconds; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LONGEST_S:
        return None
    return float(value)


def budgets_of(
    study: Study,
    estimate: StudyEstimate,
    spent: Spent,
    *,
    hours: float | None,
    money: float | None,
    price: float | None,
) -> list[Budget]:
    """The budgets of a run: of hours, and of money with the `price` of an hour."""
    budgets = []
    if hours is not None:
        budgets.append(Budget(hours * 3600, lambda: spent.seconds, estimate.to_end))
    if money is not None:
        per_hour = prices(study.sizes, price or 0.0)
        budgets.append(
            Budget(
                money,
                lambda: estimate.spent(per_hour) + cost(spent.benchmark_s, per_hour),
                partial(estimate.to_end, per_hour=per_hour),
            )
        )
    return budgets


def prices(sizes: Sequence[Size], price: float) -> dict[str, float]:
    """What an hour of each size costs, of a trial or a benchmark: `price` for each of its GPUs, or else of its cores.

    An hour of the `CASCADE` costs as much as one of the largest size.
    """
    requests = {size.name: trial_request(size) for size in sizes}
    by_size = {name: price * (request["GPU"] or request["CPU"]) for name, request in requests.items()}
    return {**by_size, CASCADE: by_size[sizes[-1].name]}


def cost(seconds: Mapping[str, float], per_hour: Mapping[str, float]) -> float:
    """What so many seconds cost, by size; those of sizes that the study no longer has cost nothing, as their stages do."""
    return sum(per_hour.get(name, 0.0) * of_size / 3600 for name, of_size in seconds.items())


def left_out(study: Study, results: Mapping[str, SearchResult], *, failed: Collection[str] = ()) -> dict[str, int]:
    """How many trials of its budget each size has not run, unless its search ended for a reason of its own.

    `failed` are sizes without an encoder: no budget would have run their trials.
    """
    counts = {
        size.name: study.budget(size) - sum(not trial.retried for trial in results[size.name].trials)
        for size in study.sizes
        if not results[size.name].ended and size.name not in failed
    }
    return {name: count for name, count in counts.items() if count > 0}
