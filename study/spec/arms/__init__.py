"""Arms: what an intermediate choice trains, and what its targets start from.

| file | arm |
|---|---|
| `base.py` | the interface |
| `sequential.py` | no intermediate task; a task, or a mixture of tasks, before the targets |
| `merged.py` | encoders trained on one task each, averaged |
| `published_after.py` | the size's checkpoint as others trained it further |

`arm_of` wraps what recipes list in `Space.intermediates`.
"""

from __future__ import annotations

from study.spec.arms.base import Arm
from study.spec.arms.merged import Merged, merged
from study.spec.arms.published_after import PublishedAfter
from study.spec.arms.sequential import NoIntermediate, Sequential, SequentialMixture, sequential
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

Intermediate = Task | Mixture | Arm  # what a recipe lists


def arm_of(choice: Intermediate) -> Arm:
    """The arm that an intermediate choice stands for: a task or a mixture is trained before the targets."""
    return choice if isinstance(choice, Arm) else sequential(choice)


__all__ = [
    "Arm",
    "Intermediate",
    "Merged",
    "NoIntermediate",
    "PublishedAfter",
    "Sequential",
    "SequentialMixture",
    "arm_of",
    "merged",
]
