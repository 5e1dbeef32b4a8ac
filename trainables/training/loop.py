"""The training loop. It is independent of Ray and of the launcher it runs under."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import Any

import torch

from trainables.hyperparameters import OutOfMemory, Training
from trainables.models.dropout import packed_dropout
from trainables.out_of_memory import is_out_of_memory
from trainables.training.batching import Batches, Share
from trainables.training.clipping import clip_gradients
from trainables.training.early_stopping import EarlyStopper
from trainables.training.losses import Losses, Observer, steps_between_reads
from trainables.training.prefetch import on_device, prepared_steps
from trainables.training.resuming.checkpoints import Checkpoints, Resumed


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
    read_every: int | None = None,
) -> Trained:
    """Train the model of a DeepSpeed engine, whose `forward` returns a summed loss; the engine holds the result.

    Batches depend only on the seed and the step, and dropout's random numbers on the worker's rank besides: a training resumed
    from a checkpoint takes the steps of an uninterrupted one of as many workers and micro-batches. On CPUs its weights are the
    same, bit for bit; on GPUs some kernels add in an order of their own.

    Between two reads of the losses the host never waits for the device. `observe` then gets the losses of all steps in between,
    in order; a training that diverged is stopped, and a checkpoint is written, only after a read. `read_every` is the number of
    steps between reads; None takes that of the device (`steps_between_reads`).

    Raises:
        Diverged: the loss of some step is NaN or infinite.
        OutOfMemory: a micro-batch does not fit on the device. Raised on the worker where it happens.
    """
    resumed = Resumed() if checkpoints is None else checkpoints.restore(engine)
    if stopper is not None:
        stopper.resume(resumed.scores, resumed.best)
    losses = Losses(
        *(resumed.losses, observe), share=share, device=device, every=read_every or steps_between_reads(device)
    )
    engine.train()
    with contextlib.closing(prepared_steps(batches, share, range(resumed.step, training.steps), device)) as steps:
        for step in steps:
            for group in engine.optimizer.param_groups:
                group["lr"] = training.learning_rate_at(step.number)
            torch.manual_seed(random.Random(f"{training.seed}|{step.number}|{share.rank}").getrandbits(63))
            for left, inputs in zip(reversed(range(len(step.micro_batches))), step.micro_batches, strict=True):
                engine.set_gradient_accumulation_boundary(left == 0)
                try:
                    with packed_dropout(device):  # around the backward pass as well, which may recompute activations
                        # The engine averages over the workers. The loss is the sum over the whole batch divided by its
                        # weight, however the batch is cut. DeepSpeed would divide the gradient of its own output by its number
                        # of micro-batches, so the product is computed even where the factor is 1.
                        loss = engine(**on_device(inputs, device)) * (share.workers / step.weight)
                        engine.backward(loss, scale_wrt_gas=False)
                    if left == 0:
                        clip_gradients(engine, training.max_gradient_norm)
                    engine.step()
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    rows = batches.micro_batch_rows(training.batch_size, share)
                    raise OutOfMemory(step.number, rows, str(error)) from error
                losses.add(loss)
            read_due, done = losses.end_step(), step.number + 1
            scored = stopper is not None and stopper.due(done)
            if not (read_due or scored or done == training.steps):
                continue
            save = losses.read(checkpoints is not None and checkpoints.due())
            if stopper is not None and scored:
                stopper.evaluate(engine, done)
                if stopper.should_stop:
                    break
            if checkpoints is not None and save:
                checkpoints.save(engine, losses.values, stopper)
    return Trained(losses.values, resumed)
