"""Clips gradients by their norm without a wait of the host for the device.

DeepSpeed's own clipping reads the norm on the host, or copies constants to the device, in every step: the device then idles
until the host has launched its next kernels. It stays where DeepSpeed waits in every backward pass anyway: under ZeRO 3, and
with an offloaded optimizer.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainables.resources import Offload

EPSILON = 1e-6  # as in `torch.nn.utils.clip_grad_norm_`


def deepspeed_clips(zero_stage: int, offload: Offload) -> bool:
    """Whether clipping is left to DeepSpeed."""
    return zero_stage == 3 or offload != "none"


def clip_gradients(engine: Any, max_norm: float) -> None:
    """Scale the reduced gradients to at most this norm, between the last backward pass of a step and the step.

    All workers call it. It does nothing where DeepSpeed clips, or with a `max_norm` of 0. A norm that is NaN or
    infinite makes the weights NaN, and the next loss shows it.
    """
    if not max_norm or engine.gradient_clipping():
        return
    gradients, partitioned = _gradients(engine)
    # Summed in fp64, the norm hardly depends on how gradients are split over workers, or on rows without a gradient. On CPUs
    # PyTorch would first copy each gradient to fp64, which takes 25 times as long.
    on_cpu = gradients[0].device.type == "cpu"
    norms = torch._foreach_norm(gradients, 2) if on_cpu else torch._foreach_norm(gradients, 2, torch.float64)
    norm = torch.linalg.vector_norm(torch.stack(norms).double())
    if partitioned and dist.get_world_size() > 1:
        squares = norm.square()
        dist.all_reduce(squares)
        norm = squares.sqrt()
    torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + EPSILON), max=1.0).float())


def _gradients(engine: Any) -> tuple[list[Tensor], bool]:
    """The gradients that the step reads, and whether each worker has a partition of them."""
    optimizer = engine.optimizer
    if _is_bf16(optimizer):
        return optimizer.fp32_groups_gradients_flat, False
    if engine.zero_optimization_stage():
        return [gradient for group in optimizer.averaged_gradients.values() for gradient in group], True
    return [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None], False


def take_steps_without_norm(engine: Any) -> None:
    """Replace the step of DeepSpeed's optimizer for bf16 in ZeRO 1, which always reads the norm, by one that does not."""
    if _is_bf16(engine.optimizer):
        engine.optimizer.step = functools.partial(_step, engine.optimizer)


def _is_bf16(optimizer: Any) -> bool:
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

    return isinstance(optimizer, BF16_Optimizer)


@torch.no_grad()
def _step(optimizer: Any) -> None:
    """`BF16_Optimizer.step` from the clipped gradients on; the engine sets them to zero afterwards."""
    for weights, gradients in zip(
        optimizer.fp32_groups_flat_partition, optimizer.fp32_groups_gradient_flat_partition, strict=True
    ):
        weights.grad = gradients
    optimizer.optimizer.step()
    optimizer._lazy_init_hp_params_optimizer_state()  # links the state that the first step made to the parameters
    optimizer.update_lp_params()
