"""Which of PyTorch's kernels for attention a forward pass calls."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Operators that `torch.nn.functional.scaled_dot_product_attention` chooses from, and the one over rows of different lengths.
KERNELS = {
    "aten::_scaled_dot_product_flash_attention": "flash",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash",
    "aten::_scaled_dot_product_efficient_attention": "memory-efficient",
    "aten::_scaled_dot_product_cudnn_attention": "cudnn",
    "aten::_scaled_dot_product_attention_math": "math",
    "aten::_flash_attention_forward": "flash over segments",
}


def attention_kernels(forward: Callable[[], object]) -> tuple[str, ...]:
    """The kernels of one call, by name; none where attention is not PyTorch's fused one.

    Calls of operators are recorded on the host, from compiled code too. The replay of a CUDA graph calls none.
    """
    with torch.autograd.profiler.profile(use_kineto=False) as calls:
        forward()
    called = {str(event.name) for event in calls.function_events or ()}
    if "aten::_scaled_dot_product_flash_attention" in called:  # it calls the kernel over segments itself
        called.discard("aten::_flash_attention_forward")
    return tuple(sorted({kernel for operator, kernel in KERNELS.items() if operator in called}))
