"""A recipe with a task and a serving variant of its own, loaded by its path as users load theirs.

Other processes cannot import such a file, so its classes must reach them by value.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from study.spec import Study
from tests.support.recipes import LANGUAGES, SMALL, inline, tiny
from trainables.benchmark import Variant
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel
from trainables.tasks.micro.bitext import MicroBitext


@dataclasses.dataclass(frozen=True)
class OwnBitext(MicroBitext):
    name: ClassVar[str] = "own_bitext"


class Reversed(Variant):
    """Serves the negated logits of fp32, so that its scores differ from those of every other variant."""

    name = "reversed"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        served = self.weights(model, device)

        def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
            return -served.logits(ids_NL, mask_NL)

        return forward


def own_task() -> Study:
    study = inline()
    return dataclasses.replace(study, targets=(*study.targets, OwnBitext(languages_=LANGUAGES, **SMALL)))


def own_variant() -> Study:
    study = tiny()
    plan = dataclasses.replace(study.benchmark, variants=("fp32", Reversed()))
    return dataclasses.replace(study, benchmark=plan)
