"""Several tasks that are trained together, as one intermediate choice."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import ClassVar

from trainables.tasks.base import Role, Task

CAP = 2**17  # K of the example-proportional mixing in Raffel et al. 2020, section 3.5.2, and Phang et al. 2020
Schedule = tuple[tuple[int, int], ...]  # for each step, the number of its task and the earlier steps of that task


@dataclass(frozen=True)
class Mixture:
    """Tasks sampled in proportion to the size of their training sets, capped at `cap` examples; each has its own head.

    Raises:
        ValueError: fewer than two tasks, a repeated task, or one that cannot be mixed.
    """

    name: str
    tasks: tuple[Task, ...]
    cap: int = CAP

    role: ClassVar[Role] = "intermediate"
    mixed_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"mixture {self.name}: needs two or more different tasks, not {', '.join(names) or 'none'}"
            )
        if unfit := [task.name for task in self.tasks if not mixable(task)]:
            raise ValueError(
                f"mixture {self.name}: {', '.join(unfit)} cannot be part of a mixture: only intermediate tasks without "
                "prerequisites or groups can"
            )
        if self.cap < 1:
            raise ValueError(f"mixture {self.name}: cap {self.cap} must be at least 1")

    @property
    def revision(self) -> str:
        """Those of all tasks, or "" if one is not pinned."""
        revisions = [task.revision for task in self.tasks]
        return ",".join(revisions) if all(revisions) else ""

    def for_training(self) -> Mixture:
        return dataclasses.replace(self, tasks=tuple(task.for_training() for task in self.tasks))

    @property
    def reads(self) -> frozenset[str]:
        return frozenset().union(*(task.reads for task in self.tasks))

    def schedule(self, sizes: tuple[int, ...], steps: int, seed: int) -> Schedule:
        """For each step, the task it trains and the number of earlier steps of that task.

        Args:
            sizes: training examples of each task.
        """
        return proportional_schedule(sizes, steps, cap=self.cap, key=f"{seed}|{self.name}")


def proportional_schedule(sizes: tuple[int, ...], steps: int, *, cap: int, key: str) -> Schedule:
    """For each step, a task drawn in proportion to its size, at most `cap`, and the number of earlier steps of that task.

    Args:
        sizes: training examples of each task.
        key: what the draws depend on.
    """
    drawn = random.Random(key).choices(range(len(sizes)), [min(size, cap) for size in sizes], k=steps)
    trained = [0] * len(sizes)
    schedule = []
    for task in drawn:
        schedule.append((task, trained[task]))
        trained[task] += 1
    return tuple(schedule)


def mixable(task: Task) -> bool:
    """Whether a task can be trained together with others: an intermediate task without prerequisites or groups."""
    return task.role == "intermediate" and not task.prerequisites and task.group == 1


def member_tasks(task: Task | Mixture) -> tuple[Task, ...]:
    """The tasks of a mixture; a single task is its own only member."""
    return task.tasks if isinstance(task, Mixture) else (task,)
