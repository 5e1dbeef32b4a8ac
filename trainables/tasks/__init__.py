"""Every task by name. A recipe names tasks; a new task is a class in a file of its own and a line here."""

from __future__ import annotations

from trainables.tasks.base import Split, Task
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroOrdering, MicroParaphrase, MicroTopic
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        MicroTagging,
        MicroEntailment,
        MicroFollows,
        MicroSpan,
        MicroBitext,
        MicroParaphrase,
        MicroTopic,
        MicroOddOneOut,
        MicroOrdering,
    )
}

__all__ = ["TASKS", "Split", "Task"]
