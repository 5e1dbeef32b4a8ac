"""Joint training: each target together with the intermediate task, in place of one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from study.spec.arms.base import Arm
from study.spec.arms.sequential import arm_of
from trainables.stages.joint import FineTuneJoint
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture, mixable

if TYPE_CHECKING:
    from study.spec.sizes import Size
    from study.spec.space import Choice
    from study.spec.study import Study
    from trainables.stages.base import Root
    from trainables.stages.finetune import Tuned


@dataclass(frozen=True)
class Joint(Arm):
    """A task or a mixture trained together with each target (Weller et al. 2022, 2205.08124).

    A target's stage takes as many steps as the sequential arm in all: the intermediate training's and, times `epochs`, the
    target's. All else is the target's: learning rate, batch size, schedule. The target's head is scored at the end, so its
    training has to end at a rate that suits it, and a step of one rate cannot serve two. Tasks are sampled in proportion to
    their training sets. A target's prerequisites are trained first, as always.

    A target without training is scored on the encoder of the sequential arm at the default intermediate rate: there is no
    training of its own that the task could be joined with.
    """

    together: Task | Mixture
    uses_rate: ClassVar[bool] = False
    note: ClassVar[str] = (
        "together with each target, at the target's rate; targets without training are scored after it alone"
    )

    @property
    def name(self) -> str:
        return f"joint_{self.together.name}"

    @property
    def members(self) -> tuple[Task, ...]:
        return arm_of(self.together).members

    @property
    def tuned(self) -> tuple[Task | Mixture, ...]:
        return arm_of(self.together).tuned

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        alone = dataclasses.replace(choice, lr_intermediate=study.space.default_lr_intermediate)
        return arm_of(self.together).encoder(study, size, alone, trained=trained)

    def target(self, study: Study, size: Size, choice: Choice, target: Task, *, trained: bool = True) -> Tuned:
        base: Root | Tuned = study.encoder_stage(size, trained=trained)
        rate = choice.lr_target * size.rate_factor
        for before in target.prerequisites:
            base = study.fine_tuned(base, before, study.tuning, rate=rate, epochs=choice.epochs, seed=choice.seed)
        own = study.training_of(target, study.tuning, rate=rate, epochs=choice.epochs, seed=choice.seed)
        first = study.training_of(self.together, study.intermediate_tuning, rate=rate)
        return FineTuneJoint(
            base,
            target.for_training(),
            dataclasses.replace(own, steps=first.steps + own.steps),
            self.together.for_training(),
            first.max_length,
            keeps_head=bool(target.prerequisites),
        )

    def errors(self, study: Study) -> Iterator[str]:
        yield from arm_of(self.together).errors(study)
        yield from (
            f"{self.name}: {task.name} has prerequisites or groups and cannot be trained together with a target"
            for task in self.members
            if task.role == "intermediate" and not mixable(task)
        )
        trainings = {self.together.name: study.training_of(self.together, study.intermediate_tuning, rate=1.0)}
        trainings |= {
            task.name: study.training_of(task, study.tuning, rate=1.0) for task in study.targets if task.trained
        }
        yield from (
            f"{self.name}: {name} has early stopping, and joint training takes a fixed number of steps"
            for name, training in trainings.items()
            if training.early_stopping is not None
        )
