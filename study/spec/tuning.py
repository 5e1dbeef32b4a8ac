"""Exceptions to how a study's tasks are trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from trainables.hyperparameters import Training


@dataclass(frozen=True)
class TaskTuning:
    """How one task is trained where it differs from the others; `rate_factor` multiplies the trial's learning rate."""

    task: str
    training: Training
    rate_factor: float = 1.0

    def with_seed(self, seed: int) -> TaskTuning:
        return dataclasses.replace(self, training=dataclasses.replace(self.training, seed=seed))
