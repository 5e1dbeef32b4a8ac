"""Stage: fine-tune an encoder on a target and other tasks together, instead of on one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.heads import HeadModule
from trainables.hyperparameters import Training
from trainables.models.task_model import HEAD
from trainables.stages.base import Root
from trainables.stages.finetune import Tuned
from trainables.stages.mixture import TrainedTogether
from trainables.tasks.base import Task
from trainables.tasks.mixture import CAP, Mixture, Schedule, member_tasks, proportional_schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class FineTuneJoint(TrainedTogether):
    """Saves the encoder and the target's head, as `FineTune` does; the heads of the other tasks are dropped.

    `task` is the target and `beside` what is trained together with it, in rows of at most `beside_length` tokens; the target's
    are those of `training`. Tasks are sampled in proportion to their training sets, as in a `Mixture`, whose cap holds for the
    target too. With `keeps_head`, the base was trained with the target's kind of head, whose training continues.
    """

    base: Root | Tuned
    task: Task
    training: Training
    beside: Task | Mixture
    beside_length: int
    keeps_head: bool = False

    def __post_init__(self) -> None:
        if self.training.early_stopping is not None:
            raise ValueError(f"{self.trains}: joint training takes a fixed number of steps and stops at no dev score")

    @property
    def trains(self) -> str:
        return f"{self.task.role}-{self.task.name}-with-{self.beside.name}"

    @property
    def memory_key(self) -> str:
        return f"{super().memory_key}-{self.beside_length}"

    @property
    def parts(self) -> tuple[tuple[Task, int], ...]:
        """The tasks beside the target, then the target."""
        others = ((task, self.beside_length) for task in member_tasks(self.beside))
        return (*others, (self.task, self.training.max_length))

    @property
    def head_of(self) -> Task | None:
        return self.task

    def schedule(self, sizes: tuple[int, ...]) -> Schedule:
        cap = self.beside.cap if isinstance(self.beside, Mixture) else CAP
        return proportional_schedule(sizes, self.training.steps, cap=cap, key=f"{self.training.seed}|{self.trains}")

    def heads(self, encoder: PreTrainedModel, base: Path) -> list[HeadModule]:
        heads = super().heads(encoder, base)
        if self.keeps_head:
            heads[-1].load_state_dict(load_file(base / HEAD))
        return heads

    def save(self, encoder: PreTrainedModel, state: dict[str, Tensor], folder: Path) -> None:
        super().save(encoder, state, folder)
        own = f"heads.{len(self.parts) - 1}."
        save_file(
            {name.removeprefix(own): value for name, value in state.items() if name.startswith(own)}, folder / HEAD
        )
