"""Sequential arms: the targets start from the encoder, or from the encoder trained on intermediate tasks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from study.spec.arms.base import Arm
from trainables.fields import added_field
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.mixture import FineTuneMixture
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

if TYPE_CHECKING:
    from study.spec.sizes import Size
    from study.spec.space import Choice
    from study.spec.study import Study
    from trainables.stages.base import Root


@dataclass(frozen=True)
class NoIntermediate(Arm):
    """The baseline of every gain: the targets start from the encoder as it is."""

    NAME: ClassVar[str] = "none"
    uses_rate: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.NAME

    @property
    def members(self) -> tuple[Task, ...]:
        return ()

    @property
    def tuned(self) -> tuple[Task | Mixture, ...]:
        return ()

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        return study.encoder_stage(size, trained=trained)


@dataclass(frozen=True)
class Sequential(Arm):
    """A task before the targets (Phang et al. 2018, 1811.01088; across languages Phang et al. 2020, 2005.13013).

    `weight_decay` replaces that of the intermediate training alone, as a choice of its own beside the plain task: decay in
    fine-tuning undoes part of what pre-training learnt (Choshen et al. 2022, 2204.03044). None keeps the study's.
    """

    task: Task
    weight_decay: float | None = added_field(None)

    @property
    def name(self) -> str:
        return self.task.name if self.weight_decay is None else f"{self.task.name}-decay{self.weight_decay:g}"

    @property
    def members(self) -> tuple[Task, ...]:
        return (self.task,)

    @property
    def tuned(self) -> tuple[Task | Mixture, ...]:
        return (*self.task.prerequisites, self.task)

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Tuned:
        root = study.encoder_stage(size, trained=trained)
        rate = intermediate_rate(size, choice)
        tuned = study.fine_tuned(root, self.task, study.intermediate_tuning, rate=rate, seed=choice.seed)
        return tuned if self.weight_decay is None else _with_weight_decay(tuned, self.weight_decay)

    def errors(self, study: Study) -> Iterator[str]:
        yield from super().errors(study)
        if self.task.mixed_only:
            yield f"space.intermediates: {self.name} has no labels and is trained as one of the tasks of a mixture only"
        if self.weight_decay is None:
            return
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            yield f"{self.name}: weight_decay {self.weight_decay} must be finite and not negative"
        if self.weight_decay == study.training_of(self.task, study.intermediate_tuning, rate=1.0).weight_decay:
            yield f"{self.name}: weight_decay {self.weight_decay} is that of the study: use the task itself"


@dataclass(frozen=True)
class SequentialMixture(Arm):
    """A mixture of tasks before the targets."""

    mixture: Mixture

    @property
    def name(self) -> str:
        return self.mixture.name

    @property
    def members(self) -> tuple[Task, ...]:
        return self.mixture.tasks

    @property
    def tuned(self) -> tuple[Task | Mixture, ...]:
        return (self.mixture,)

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Tuned:
        rate = intermediate_rate(size, choice)
        training = study.training_of(self.mixture, study.intermediate_tuning, rate=rate, seed=choice.seed)
        return FineTuneMixture(study.encoder_stage(size, trained=trained), self.mixture.for_training(), training)

    def errors(self, study: Study) -> Iterator[str]:
        yield from super().errors(study)
        if study.training_of(self.mixture, study.intermediate_tuning, rate=1.0).early_stopping is not None:
            yield f"{self.name}: early stopping watches the dev set of one task, and a mixture has several"


Intermediate = Task | Mixture | Arm  # what a recipe lists


def arm_of(choice: Intermediate) -> Arm:
    """The arm that an intermediate choice stands for: a task or a mixture is trained before the targets."""
    if isinstance(choice, Arm):
        return choice
    return SequentialMixture(choice) if isinstance(choice, Mixture) else Sequential(choice)


def _with_weight_decay(tuned: FineTune, weight_decay: float) -> FineTune:
    """The training, and those of its prerequisites, with another weight decay."""
    training = dataclasses.replace(tuned.training, weight_decay=weight_decay)
    base = _with_weight_decay(tuned.base, weight_decay) if isinstance(tuned.base, FineTune) else tuned.base
    return dataclasses.replace(tuned, base=base, training=training)


def intermediate_rate(size: Size, choice: Choice) -> float:
    """The intermediate learning rate of a choice at a size.

    Raises:
        ValueError: the choice has none, and its arm needs one.
    """
    if choice.lr_intermediate is None:
        raise ValueError(f"{choice.intermediate}: the choice has no lr_intermediate, which this arm trains with")
    return choice.lr_intermediate * size.rate_factor
