"""Sequential arms: the targets start from the encoder, or from the encoder trained on intermediate tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from study.spec.arms.base import Arm
from trainables.stages.mixture import FineTuneMixture
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

if TYPE_CHECKING:
    from study.spec.sizes import Size
    from study.spec.space import Choice
    from study.spec.study import Study
    from trainables.stages.base import Root
    from trainables.stages.finetune import Tuned


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
    """A task before the targets (Phang et al. 2018, 1811.01088; across languages Phang et al. 2020, 2005.13013)."""

    task: Task

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def members(self) -> tuple[Task, ...]:
        return (self.task,)

    @property
    def tuned(self) -> tuple[Task | Mixture, ...]:
        return (*self.task.prerequisites, self.task)

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        root = study.encoder_stage(size, trained=trained)
        rate = intermediate_rate(size, choice)
        return study.fine_tuned(root, self.task, study.intermediate_tuning, rate=rate, seed=choice.seed)

    def errors(self, study: Study) -> Iterator[str]:
        yield from super().errors(study)
        if self.task.mixed_only:
            yield f"space.intermediates: {self.name} has no labels and is trained as one of the tasks of a mixture only"


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

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        rate = intermediate_rate(size, choice)
        training = study.training_of(self.mixture, study.intermediate_tuning, rate=rate, seed=choice.seed)
        return FineTuneMixture(study.encoder_stage(size, trained=trained), self.mixture.for_training(), training)

    def errors(self, study: Study) -> Iterator[str]:
        yield from super().errors(study)
        if study.training_of(self.mixture, study.intermediate_tuning, rate=1.0).early_stopping is not None:
            yield f"{self.name}: early stopping watches the dev set of one task, and a mixture has several"


def intermediate_rate(size: Size, choice: Choice) -> float:
    """The intermediate learning rate of a choice at a size.

    Raises:
        ValueError: the choice has none, and its arm needs one.
    """
    if choice.lr_intermediate is None:
        raise ValueError(f"{choice.intermediate}: the choice has no lr_intermediate, which this arm trains with")
    return choice.lr_intermediate * size.rate_factor
