"""The training loop. Plain Python: it knows neither Ray nor the launcher it runs under."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainables.batching import Batches, Share
from trainables.engine import build_engine
from trainables.training import Training

Observer = Callable[[int, float], None]  # step counted from 0, loss of the whole batch


class Diverged(RuntimeError):
    """The loss is no longer a number. Raised on every worker at the same step."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"loss {loss} at step {step}: lower the learning rate")
        self.step, self.loss = step, loss

    def __reduce__(self) -> tuple[Any, ...]:
        return Diverged, (self.step, self.loss)


def train(
    model: nn.Module,
    batches: Batches,
    training: Training,
    *,
    share: Share,
    zero_stage: int,
    device: torch.device,
    observe: Observer = lambda step, loss: None,
) -> Any:
    """Train the model, whose `forward` returns a summed loss, and return the engine that holds the result.

    Raises:
        Diverged: the loss of some step is NaN or infinite.
    """
    engine = build_engine(model, training, share=share, zero_stage=zero_stage, group=batches.group)
    engine.train()
    for step in range(training.steps):
        for group in engine.optimizer.param_groups:
            group["lr"] = training.learning_rate_at(step)
        micro_batches = batches.micro_batches(step, share)
        # The engine averages over workers and micro-batches; the loss is a sum over the whole batch divided by its weight.
        scale = share.workers * len(micro_batches) / batches.weight(step)
        total = torch.zeros((), device=device)
        for inputs in micro_batches:
            loss = engine(**{name: tensor.to(device) for name, tensor in inputs.items()}) * scale
            engine.backward(loss)
            engine.step()
            total += loss.detach() / len(micro_batches)
        if share.workers > 1:
            dist.all_reduce(total, op=dist.ReduceOp.SUM)
        mean = float(total) / share.workers
        if not math.isfinite(mean):
            raise Diverged(step, mean)
        observe(step, mean)
    return engine
