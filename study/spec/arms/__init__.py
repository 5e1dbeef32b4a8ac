"""Arms: what an intermediate choice trains, and what its targets start from.

| file | arm |
|---|---|
| `base.py` | the interface |
| `sequential.py` | no intermediate task; a task, or a mixture of tasks, before the targets |

`arm_of` wraps what recipes list in `Space.intermediates`.
"""

from __future__ import annotations

from study.spec.arms.base import Arm
from study.spec.arms.sequential import NoIntermediate, Sequential, SequentialMixture
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

Intermediate = Task | Mixture | Arm  # what a recipe lists


def arm_of(choice: Intermediate) -> Arm:
    """The arm that an intermediate choice stands for: a task or a mixture is trained before the targets."""
    if isinstance(choice, Arm):
        return choice
    return SequentialMixture(choice) if isinstance(choice, Mixture) else Sequential(choice)


__all__ = ["Arm", "Intermediate", "NoIntermediate", "Sequential", "SequentialMixture", "arm_of"]
