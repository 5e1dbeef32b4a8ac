"""Arms: what an intermediate choice trains, and what its targets start from.

| file | arm |
|---|---|
| `base.py` | the interface |
| `sequential.py` | no intermediate task; a task, or a mixture of tasks, before the targets |
| `joint.py` | a task or a mixture together with each target |
| `merged.py` | encoders trained on one choice each, averaged |
| `published_after.py` | the size's checkpoint as others trained it further |

`arm_of` wraps what recipes list in `Space.intermediates`.
"""

from study.spec.arms.base import Arm
from study.spec.arms.joint import Joint
from study.spec.arms.merged import Merged, merged
from study.spec.arms.published_after import PublishedAfter
from study.spec.arms.sequential import Intermediate, NoIntermediate, Sequential, SequentialMixture, arm_of

__all__ = [
    "Arm",
    "Intermediate",
    "Joint",
    "Merged",
    "NoIntermediate",
    "PublishedAfter",
    "Sequential",
    "SequentialMixture",
    "arm_of",
    "merged",
]
