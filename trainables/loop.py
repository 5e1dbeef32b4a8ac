"""The training loop. Plain Python: it knows neither Ray nor the launcher it runs under."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainables.batching import Batches, Share
from trainables.checkpoints import Checkpoints, Resumed
from trainables.engine import Offload, build_engine
from trainables.stopping import Watch
from trainables.training import Diverged, Training

Observer = Callable[[int, float], None]  # step counted from 0, loss of the whole batch


class OutOfMemory(RuntimeError):
    """The device did not hold a micro-batch of so many entries of the batch."""

    def __init__(self, step: int, micro_batch: int, reason: str) -> None:
        super().__init__(f"out of memory at step {step} with a micro-batch of {micro_batch}: {reason}")
        self.step, self.micro_batch, self.reason = step, micro_batch, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return OutOfMemory, (self.step, self.micro_batch, self.reason)


@dataclass(frozen=True)
class Trained:
    """The engine that holds the result, the loss of every step, and what an interrupted training went on from."""

    engine: Any
    losses: list[float]
    resumed: Resumed


def train(
    model: nn.Module,
    batches: Batches,
    training: Training,
    *,
    share: Share,
    zero_stage: int,
    offload: Offload = "none",
    device: torch.device,
    observe: Observer = lambda step, loss: None,
    checkpoints: Checkpoints | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train the model, whose `forward` returns a summed loss.

    Batches and random numbers (dropout) depend on the seed and the step alone, so that a training that goes on from a
    checkpoint is the one that was interrupted.

    Raises:
        Diverged: the loss of some step is NaN or infinite.
        OutOfMemory: the device does not hold a micro-batch. Raised on the worker that it happens to.
    """
    engine = build_engine(model, training, share=share, zero_stage=zero_stage, offload=offload, group=batches.group)
    resumed = Resumed() if checkpoints is None else checkpoints.restore(engine)
    losses: list[float] = list(resumed.losses)
    if watch is not None:
        watch.resume(resumed.scores, resumed.best)
    engine.train()
    for step in range(resumed.step, training.steps):
        for group in engine.optimizer.param_groups:
            group["lr"] = training.learning_rate_at(step)
        torch.manual_seed(random.Random(f"{training.seed}|{step}|{share.rank}").getrandbits(63))
        micro_batches = batches.micro_batches(step, share)
        # The engine averages over workers and micro-batches; the loss is a sum over the whole batch divided by its weight.
        scale = share.workers * len(micro_batches) / batches.weight(step)
        total = torch.zeros((), device=device)
        for inputs in micro_batches:
            try:
                loss = engine(**{name: tensor.to(device) for name, tensor in inputs.items()}) * scale
                engine.backward(loss)
                engine.step()
            except torch.OutOfMemoryError as error:
                held = training.batch_size // share.workers // len(micro_batches)
                raise OutOfMemory(step, held, str(error)) from error
            total += loss.detach() / len(micro_batches)
        due = checkpoints is not None and checkpoints.due()
        if share.workers > 1:
            told = torch.stack([total, torch.full_like(total, due)])
            dist.all_reduce(told, op=dist.ReduceOp.SUM)
            total, due = told[0], bool(told[1])
        mean = float(total) / share.workers
        if not math.isfinite(mean):
            raise Diverged(step, mean)
        losses.append(mean)
        observe(step, mean)
        if watch is not None and watch.wants(step + 1):
            watch.look(engine, step + 1)
            if watch.over:
                break
        if checkpoints is not None and due:
            checkpoints.save(engine, losses, watch)
    return Trained(engine, losses, resumed)
