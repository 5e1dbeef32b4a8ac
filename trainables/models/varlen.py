"""Attention inside the segments of a packed batch: PyTorch's FlashAttention on GPUs, row by row on CPUs.

On GPUs it is the kernel for rows of different lengths (Dao et al. 2022, arXiv 2205.14135), which reads the boundaries of the
segments. PyTorch 2.13 has a public function for it, `torch.nn.attention.varlen.varlen_attn`. It calls the same operator with a
dropout of 0 and launches one more kernel for each call, and XLM-R and BERT are trained with dropout of attention weights.
So all families go through the private operator, whose arguments are compared with those used here, and whose results are
compared with those of row-by-row attention before it trains anything (`check`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ARGUMENTS = (
    *("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k"),
    *("dropout_p", "is_causal", "return_debug_mask"),
)
OPTIONS = ("scale", "window_size_left", "window_size_right")
# The largest error relative to the largest value, of outputs and of gradients: bf16 and fp16 keep 8 and 11 bits, and a
# gradient sums several rounded products. A kernel that reads other boundaries, or another window, is off by about 1.
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-4}
LENGTHS = (130, 1, 0, 47, 9)  # more than a block of the kernel, a single token, and no filler
WINDOW = 8

Kernel = Callable[..., Tensor]


class KernelUnusable(RuntimeError):
    """PyTorch's attention over segments is missing or wrong on this device."""

    def __init__(self, device: torch.device, reason: str) -> None:
        super().__init__(
            f"unpad: PyTorch's attention over rows of different lengths on {device}: {reason}; turn `unpad` off"
        )


def attend(
    query_THW: Tensor,
    key_THW: Tensor,
    value_THW: Tensor,
    boundaries: Tensor,
    longest: int,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    reach: int = -1,
) -> Tensor:
    """Attention of each token to those of its segment, (tokens, heads, width of a head).

    Args:
        boundaries: ends of the segments with 0 first, int32. A segment may be empty.
        longest: tokens of the longest segment, or more.
        dropout: of the attention weights.
        scaling: of the scores; 1 / sqrt(width) if None.
        reach: the distance that a token attends to on either side; -1 for all.
    """
    kernel = row_by_row if query_THW.device.type == "cpu" else flash
    return kernel(*(query_THW, key_THW, value_THW, boundaries, longest), dropout=dropout, scaling=scaling, reach=reach)


def flash(
    query_THW: Tensor,
    key_THW: Tensor,
    value_THW: Tensor,
    boundaries: Tensor,
    longest: int,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    reach: int = -1,
) -> Tensor:
    """`attend` by PyTorch's FlashAttention: on Ampere GPUs and newer, in bf16 or fp16."""
    attended: Tensor = torch.ops.aten._flash_attention_forward(
        *(query_THW, key_THW, value_THW, boundaries, boundaries, longest, longest),
        *(dropout, False, False),
        scale=scaling,
        window_size_left=reach,
        window_size_right=reach,
    )[0]
    return attended


def row_by_row(
    query_THW: Tensor,
    key_THW: Tensor,
    value_THW: Tensor,
    boundaries: Tensor,
    longest: int,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    reach: int = -1,
) -> Tensor:
    """`attend` by PyTorch's fused attention, one segment after the other: the reference, on any device and in any precision."""
    attended = []
    for first, last in itertools.pairwise(boundaries.tolist()):
        if first == last:
            continue
        query, key, value = (packed[first:last].transpose(0, 1) for packed in (query_THW, key_THW, value_THW))
        window = None
        if reach >= 0:
            position = torch.arange(last - first, device=query.device)
            window = (position[:, None] - position[None]).abs() <= reach
        part = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=window, dropout_p=dropout, scale=scaling
        )
        attended.append(part.transpose(0, 1))
    return torch.cat(attended)


def schema_problem(schema: Any = None) -> str | None:
    """How the private operator's arguments differ from those that `flash` passes; None if they do not.

    Arguments that `flash` leaves out must have a default.
    """
    schema = torch.ops.aten._flash_attention_forward.default._schema if schema is None else schema
    positional = tuple(argument.name for argument in schema.arguments if not argument.kwarg_only)
    named = {argument.name: argument for argument in schema.arguments if argument.kwarg_only}
    needed = [name for name, argument in named.items() if name not in OPTIONS and not argument.has_default_value()]
    if positional == ARGUMENTS and set(OPTIONS) <= set(named) and not needed:
        return None
    return f"PyTorch {torch.__version__} has other arguments than this version was written for: {schema}"


def check(device: torch.device, dtype: torch.dtype, *, width: int, kernel: Kernel = attend) -> float:
    """Compare the kernel on the device that will train with row-by-row attention in fp32, forward and backward.

    With dropout, whose masks are random, it checks what holds for any mask: the backward pass uses that of the forward pass,
    and the kept weights are scaled so that the expectation stays.

    Args:
        width: of a head of the encoder; kernels differ by it.

    Returns:
        The largest error of outputs and gradients, relative to the largest value.

    Raises:
        KernelUnusable: it cannot run, or gives other results.
    """
    if (problem := schema_problem()) is not None:
        raise KernelUnusable(device, problem)
    with torch.enable_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        ends = torch.tensor([0, *itertools.accumulate(LENGTHS)], dtype=torch.int32, device=device)
        packed = [torch.randn(sum(LENGTHS), 2, width, device=device).to(dtype) for _ in range(4)]
        try:
            errors = {**_errors(kernel, packed, ends), **_errors(kernel, packed, ends, reach=WINDOW)}
            dropout_problem = _dropout_problem(kernel, packed, ends)
        except RuntimeError as error:  # what PyTorch raises for a GPU, a precision or a width without a kernel
            raise KernelUnusable(device, str(error).splitlines()[0]) from error
    wrong = [(name, error) for name, error in errors.items() if not error <= TOLERANCE[dtype]]  # also where it is NaN
    problems = [f"{name} is off by {error:.2g} of its largest value" for name, error in wrong]
    problems += [] if dropout_problem is None else [dropout_problem]
    if problems:
        raise KernelUnusable(device, f"self-test in {dtype}, heads of {width}: {'; '.join(problems)}")
    return max(errors.values())


def _errors(kernel: Kernel, packed: Sequence[Tensor], ends: Tensor, *, reach: int = -1) -> dict[str, float]:
    """The largest errors of the output and the three gradients against the reference in fp32, by name."""
    results, expected = (
        _results(of, [values.to(dtype) for values in packed], ends, reach=reach)
        for of, dtype in ((kernel, packed[0].dtype), (row_by_row, torch.float32))
    )
    window = f" with a window of {reach}" if reach >= 0 else ""
    names = [f"{name}{window}" for name in ("output", "d query", "d key", "d value")]
    return {
        name: float((result.float() - wanted).abs().max() / wanted.abs().max())
        for name, result, wanted in zip(names, results, expected, strict=True)
    }


def _results(kernel: Kernel, packed: Sequence[Tensor], ends: Tensor, *, reach: int) -> tuple[Tensor, ...]:
    leaves = [values.clone().requires_grad_() for values in packed[:3]]
    output = kernel(*leaves, ends, max(LENGTHS), reach=reach)
    return output.detach(), *torch.autograd.grad(output, leaves, packed[3])


def _dropout_problem(kernel: Kernel, packed: Sequence[Tensor], ends: Tensor) -> str | None:
    """Half of the weights are dropped, over about 24,000 outputs or more.

    An output is linear in the values, so for the loss |output|^2 / 2 the product of values and their gradient is |output|^2 if
    both passes use one mask, and about half of it if they do not. Dropping half of many weights and doubling the rest doubles
    |output|^2.
    """
    query, key, value = (values.clone() for values in packed[:3])
    plain = float(kernel(query, key, value, ends, max(LENGTHS)).float().square().sum())
    value.requires_grad_()
    output = kernel(query, key, value, ends, max(LENGTHS), dropout=0.5)
    (gradient,) = torch.autograd.grad(output, value, output.detach())
    dropped = float(output.detach().float().square().sum())
    replayed = float((value.detach().float() * gradient.float()).sum())
    if not abs(replayed / dropped - 1) <= TOLERANCE[value.dtype]:
        return f"the backward pass draws another dropout mask: {replayed / dropped:.2f} instead of 1"
    if not 1.6 <= dropped / plain <= 2.4:
        return f"dropout of a half changes the square of the output by {dropped / plain:.2f} instead of 2"
    return None
