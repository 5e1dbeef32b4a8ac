"""The merged arm: encoders that were trained on one choice each, averaged, before the targets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from study.spec.arms.base import Arm
from study.spec.arms.sequential import Intermediate, Sequential, SequentialMixture, arm_of
from trainables.stages.finetune import Tuned
from trainables.stages.merge import MergeEncoders
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

if TYPE_CHECKING:
    from study.spec.sizes import Size
    from study.spec.space import Choice
    from study.spec.study import Study
    from trainables.stages.base import Root


@dataclass(frozen=True)
class Merged(Arm):
    """The mean of what trainings on the parts changed in the encoder, times `scale`, added to the encoder.

    A scale of 1 averages the parts' encoders (Choshen et al. 2022, 2204.03044). Other scales are other choices of the space,
    with names of their own and their own rows in the tables: each is ranked on English dev as all choices are, and none is
    picked unseen. The sum of n changes (task arithmetic, Ilharco et al. 2022, 2212.04089) is a scale of n.

    The parts are choices of the study, and their stages at the trial's `lr_intermediate` and seed are shared with it.
    """

    note: ClassVar[str] = "trained one by one, then averaged; -x<number> scales the change"

    title: str
    parts: tuple[Intermediate, ...]
    scale: float = 1.0

    @property
    def name(self) -> str:
        return self.title if self.scale == 1 else f"{self.title}-x{self.scale:g}"

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the parts."""
        return tuple(map(arm_of, self.parts))

    @property
    def members(self) -> tuple[Task, ...]:
        return tuple(dict.fromkeys(task for arm in self.arms for task in arm.members))

    @property
    def tuned(self) -> tuple[Task | Mixture, ...]:
        return tuple(dict.fromkeys(task for arm in self.arms for task in arm.tuned))

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        stages = (arm.encoder(study, size, choice, trained=trained) for arm in self.arms)
        encoders = tuple(stage for stage in stages if isinstance(stage, Tuned))  # all are: see `errors`
        weight = self.scale / len(encoders)
        return MergeEncoders(study.encoder_stage(size, trained=trained), encoders, (weight,) * len(encoders))

    def errors(self, study: Study) -> Iterator[str]:
        yield from super().errors(study)
        if not (math.isfinite(self.scale) and self.scale > 0):
            yield f"{self.name}: scale {self.scale} must be positive and finite"
        counts = Counter(arm.name for arm in self.arms)
        if len(counts) < 2 or len(counts) < len(self.arms):
            yield f"{self.name}: merges two or more different choices, not {', '.join(counts.elements()) or 'none'}"
        yield from (
            f"{self.name}: merges {arm.name}, which is not a task or a mixture that is trained before the targets"
            for arm in self.arms
            if not isinstance(arm, Sequential | SequentialMixture)
        )
        yield from (
            f"{self.name}: merges {arm.name}, which is not an intermediate choice of this study"
            for arm in self.arms
            if arm not in study.space.arms
        )
        for size in study.sizes:
            if size.tries(self.name) and (absent := [name for name in counts if not size.tries(name)]):
                yield (
                    f"sizes[{size.name}]: {self.name} merges {', '.join(absent)}, which this size does not try; add it to the "
                    f"size's intermediates, or take {self.name} from them"
                )


def merged(title: str, parts: tuple[Intermediate, ...], scales: tuple[float, ...] = (1.0,)) -> tuple[Merged, ...]:
    """A merged arm for each scale."""
    return tuple(Merged(title, parts, scale) for scale in scales)
