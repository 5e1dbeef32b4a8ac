"""The training loop. It is independent of Ray and of the launcher it runs under."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from trainables.hyperparameters import Diverged, OutOfMemory, Training
from trainables.training.batching import Batches, Share
from trainables.training.checkpoints import Checkpoints, Resumed
from trainables.training.dropout import packed_dropout
from trainables.training.early_stopping import EarlyStopper

Observer = Callable[[int, float], None]  # step counted from 0, loss of the whole batch


@dataclass(frozen=True)
class Trained:
    """The loss of every step, and what an interrupted training resumed from."""

    losses: list[float]
    resumed: Resumed


def train(
    engine: Any,
    batches: Batches,
    training: Training,
    *,
    share: Share,
    device: torch.device,
    observe: Observer = lambda step, loss: None,
    checkpoints: Checkpoints | None = None,
    stopper: EarlyStopper | None = None,
) -> Trained:
    """Train the model of a DeepSpeed engine, whose `forward` returns a summed loss; the engine holds the result.

    Batches depend only on the seed and the step, and dropout's random numbers on the worker's rank besides: a training resumed
    from a checkpoint equals an uninterrupted one of as many workers and micro-batches.

    Raises:
        Diverged: the loss of some step is NaN or infinite.
        OutOfMemory: a micro-batch does not fit on the device. Raised on the worker where it happens.
    """
    resumed = Resumed() if checkpoints is None else checkpoints.restore(engine)
    losses: list[float] = list(resumed.losses)
    if stopper is not None:
        stopper.resume(resumed.scores, resumed.best)
    engine.train()
    for step in range(resumed.step, training.steps):
        for group in engine.optimizer.param_groups:
            group["lr"] = training.learning_rate_at(step)
        torch.manual_seed(random.Random(f"{training.seed}|{step}|{share.rank}").getrandbits(63))
        micro_batches = batches.micro_batches(step, share)
        # The engine divides by the workers and by its number of micro-batches, of which a step of a mixture may have fewer. The
        # loss is the sum over the whole batch divided by its weight, however the batch is cut.
        accumulation = engine.gradient_accumulation_steps()
        scale = share.workers * accumulation / batches.weight(step)
        total = torch.zeros((), device=device)
        for number, inputs in enumerate(micro_batches, 1):
            engine.set_gradient_accumulation_boundary(number == len(micro_batches))
            try:
                with packed_dropout(device):  # around the backward pass as well, which may recompute activations
                    loss = engine(**_on_device(inputs, device)) * scale
                    engine.backward(loss)
                engine.step()
            except torch.OutOfMemoryError as error:
                raise OutOfMemory(step, len(inputs["attention_mask"]), str(error)) from error
            total += loss.detach() / accumulation
        due = checkpoints is not None and checkpoints.due()
        if share.workers > 1:
            sums = torch.stack([total, torch.full_like(total, due)])
            dist.all_reduce(sums, op=dist.ReduceOp.SUM)
            total, due = sums[0], bool(sums[1])
        mean = float(total) / share.workers
        if not math.isfinite(mean):
            raise Diverged(step, mean)
        losses.append(mean)
        observe(step, mean)
        if stopper is not None and stopper.due(step + 1):
            stopper.evaluate(engine, step + 1)
            if stopper.should_stop:
                break
        if checkpoints is not None and due:
            checkpoints.save(engine, losses, stopper)
    return Trained(losses, resumed)


def _on_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The inputs with their tensors on the device; numbers stay with the host, which branches on them."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
