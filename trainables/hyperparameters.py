"""Hyperparameters of training, which are part of a stage's identity; and the errors that end a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

# bf16_mixed: fp32 weights and optimizer, bf16 matrix products. bf16_master: weights and activations in bf16, with an fp32 copy
# of the weights and fp32 gradients in the optimizer.
Precision = Literal["fp32", "bf16_mixed", "bf16_master"]


@dataclass(frozen=True)
class EarlyStopping:
    """Score the English dev set every `every` steps and at the end, and keep the weights of the best score.

    Training ends after `patience` consecutive evaluations that did not raise it.
    """

    every: int
    patience: int

    def __post_init__(self) -> None:
        if self.every < 1 or self.patience < 1:
            raise ValueError(
                f"early stopping every {self.every} steps with patience {self.patience}: both must be at least 1"
            )


@dataclass(frozen=True)
class Training:
    """Hyperparameters of one training stage.

    `batch_size` counts features over all workers. `warmup` is the share of steps before `schedule`.
    """

    learning_rate: float
    steps: int
    batch_size: int
    seed: int
    precision: Precision = "fp32"
    max_length: int = 128
    warmup: float = 0.1
    schedule: Literal["linear", "constant"] = "linear"
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    early_stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate {self.learning_rate}: must be positive and finite")
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps {self.steps} and batch_size {self.batch_size} must be at least 1")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup {self.warmup}: must be a share of the steps, at least 0 and less than 1")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step counted from 0: linear warm-up, then linear decay to 0 or constant."""
        warmup_steps = self.warmup * self.steps
        if step + 1 < warmup_steps:
            return self.learning_rate * (step + 1) / warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * min(1.0, (self.steps - step) / max(1.0, self.steps - warmup_steps))


class Diverged(RuntimeError):
    """The loss is NaN or infinite. Raised on every worker at the same step; `stage` is the label of what was trained."""

    def __init__(self, step: int, loss: float, stage: str = "") -> None:
        self.step, self.loss, self.stage = step, loss, stage

    def __str__(self) -> str:
        of = f" of {self.stage}" if self.stage else ""
        return f"loss {self.loss} at step {self.step}{of}: lower the learning rate"

    def __reduce__(self) -> tuple[Any, ...]:
        return Diverged, (self.step, self.loss, self.stage)


class OutOfMemory(RuntimeError):
    """A micro-batch does not fit on the device; it counts rows, and `stage` is the stage's `memory_key`."""

    def __init__(self, step: int, micro_batch: int, reason: str, stage: str = "") -> None:
        super().__init__(f"out of memory at step {step} with a micro-batch of {micro_batch}: {reason}")
        self.step, self.micro_batch, self.reason, self.stage = step, micro_batch, reason, stage

    def __reduce__(self) -> tuple[Any, ...]:
        return OutOfMemory, (self.step, self.micro_batch, self.reason, self.stage)
