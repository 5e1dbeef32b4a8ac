"""Several tasks that are trained together, as one intermediate choice."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import ClassVar

from trainables.tasks.base import Role, Task

CAP = 2**17  # K of the example-proportional mixing in Raffel et al. 2020, section 3.5.2, and Phang et al. 2020


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
        if unfit := [
            task.name for task in self.tasks if task.role != "intermediate" or task.prerequisites or task.group > 1
        ]:
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

    def schedule(self, sizes: tuple[int, ...], steps: int, seed: int) -> tuple[tuple[int, int], ...]:
        """For each step, the task it trains and the number of earlier steps of that task.

        Args:
            sizes: training examples of each task.
        """
        weights = [min(size, self.cap) for size in sizes]
        drawn = random.Random(f"{seed}|{self.name}").choices(range(len(sizes)), weights, k=steps)
        trained = [0] * len(sizes)
        schedule = []
        for task in drawn:
            schedule.append((task, trained[task]))
            trained[task] += 1
        return tuple(schedule)


def member_tasks(task: Task | Mixture) -> tuple[Task, ...]:
    """The tasks of a mixture; a single task is its own only member."""
    return task.tasks if isinstance(task, Mixture) else (task,)
