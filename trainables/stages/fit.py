"""Training inside a stage: the loop with the workplace's share and device, losses kept, progress told."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainables.batching import Batches
from trainables.engine import full_state
from trainables.loop import train
from trainables.stages.base import Workplace
from trainables.training import Training

RECENT = 20  # steps that a final loss is averaged over


def fit(
    model: nn.Module, batches: Batches, training: Training, work: Workplace, label: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train the model; its full state on the CPU, and first and final loss. Every worker of a group calls it.

    Raises:
        Diverged: the loss of some step is NaN or infinite.
    """
    losses: list[float] = []

    def observe(step: int, loss: float) -> None:
        losses.append(loss)
        work.progress(label, step + 1, training.steps, loss)

    engine = train(
        model,
        batches,
        training,
        share=work.share,
        zero_stage=work.zero_stage,
        device=work.device,
        observe=observe,
    )
    recent = losses[-RECENT:]
    return full_state(engine), {"first_loss": losses[0], "final_loss": sum(recent) / len(recent)}
