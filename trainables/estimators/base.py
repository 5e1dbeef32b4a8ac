"""An estimate: a stage with one number, how much a target would profit from starting at an encoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainables.estimators.units import Undefined
from trainables.estimators.vectors import Kind, Part, Vectors
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.finetune import Tuned, root_of
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

LIMIT = (
    1000  # features of a task that an estimate reads, as many as the target samples of Schulte et al. 2024 (2410.15148)
)


@dataclass(frozen=True)
class Estimate(Stage):
    """A number for the target `task`, the higher the better; only its order among encoders means something.

    `encoder` is the stage that the target would start from: the intermediate training, or the encoder itself for none.
    The metrics have `value`, or `unavailable` with the reason. `reads_tuned`: it needs the intermediate training to be done.
    `reads_texts`: it reads the texts of that training.
    """

    name: ClassVar[str]
    reads_tuned: ClassVar[bool]
    reads_texts: ClassVar[bool] = False

    encoder: Root | Tuned
    task: Task
    max_length: int
    limit: int = LIMIT

    @property
    def label(self) -> str:
        return f"estimate-{self.name}-{self.task.name}-{root_of(self.encoder).short}"

    @abstractmethod
    def estimate(self, work: Workplace) -> float:
        """The number, once the parents are finished.

        Raises:
            Undefined: there is none, for the reason that it says.
        """

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        if not work.leads:
            return {}
        try:
            value = self.estimate(work)
        except Undefined as reason:
            return {"unavailable": str(reason)}
        return {"value": value} if math.isfinite(value) else {"unavailable": f"it is not finite: {value}"}

    def decisions(self, encoder: Root | Tuned, part: Part = "train") -> Vectors:
        """The target's labelled units, as this encoder sees them."""
        task = self.task.for_training() if part == "train" else self.task
        return Vectors(encoder, task, part, "decision", self.max_length, self.limit)

    def target_texts(self, unit: Kind) -> Vectors:
        """Unlabelled units of the target's training set, as the base encoder sees them."""
        return Vectors(root_of(self.encoder), self.task.for_training(), "train", unit, self.max_length, self.limit)

    def intermediate_texts(self, encoder: Root | Tuned, unit: Kind) -> tuple[Vectors, ...]:
        """Those of the training set of the intermediate task, or of each task of the mixture; () for none."""
        if not isinstance(self.encoder, Tuned):
            return ()
        task, length = self.encoder.task, self.encoder.training.max_length
        members = task.tasks if isinstance(task, Mixture) else (task,)
        return tuple(Vectors(encoder, member, "train", unit, length, self.limit) for member in members)
