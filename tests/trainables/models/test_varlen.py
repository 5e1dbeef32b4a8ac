"""Attention inside segments: the reference, PyTorch's private operator, and the self-test that compares them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.models.varlen import KernelUnusable, attend, check, flash, row_by_row, schema_problem

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, HEADS = torch.device("cpu"), 2


@pytest.mark.parametrize("reach", [-1, 2])
def test_segments_do_not_attend_to_each_other(reach: int) -> None:
    """Compared with one masked attention over all tokens; one segment is empty."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(14, HEADS, 8, generator=generator) for _ in range(3))
    owner = torch.tensor([0] * 5 + [1] + [2] * 8)
    allowed = owner[:, None] == owner[None]
    if reach >= 0:
        allowed &= (torch.arange(14)[:, None] - torch.arange(14)[None]).abs() <= reach
    scores = torch.einsum("qhw,khw->hqk", query, key) * 0.3
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    expected = torch.einsum("hqk,khw->qhw", weights, value)
    ends = torch.tensor([0, 5, 6, 6, 14], dtype=torch.int32)
    got = attend(query, key, value, ends, 8, scaling=0.3, reach=reach)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reach", [-1, 64])
def test_the_gpu_kernel_accepts_its_arguments(reach: int) -> None:
    """PyTorch's operator is called forward and backward on tensors without memory, which checks shapes and arguments."""
    ends = torch.empty(4, dtype=torch.int32, device="meta")
    query, key, value = (
        torch.empty(100, 32, 80, dtype=torch.bfloat16, device="meta", requires_grad=True) for _ in range(3)
    )
    attended = attend(query, key, value, ends, 40, dropout=0.1, scaling=0.1, reach=reach)
    assert attended.shape == query.shape
    torch.autograd.backward(attended.sum())
    assert all(part.grad is not None and part.grad.shape == part.shape for part in (query, key, value))


def test_the_operator_has_the_arguments_that_are_passed() -> None:
    assert schema_problem() is None


@pytest.mark.parametrize(
    ("change", "by"),
    [
        ("SymInt max_q", "int longest_q"),
        ("bool return_debug_mask, ", ""),
        ("window_size_left", "window_left"),
        ("float? scale=None", "float? scale=None, bool deterministic"),
    ],
)
def test_another_version_of_the_operator_is_recognised(change: str, by: str) -> None:
    schema = str(torch.ops.aten._flash_attention_forward.default._schema)
    assert change in schema
    problem = schema_problem(torch._C.parse_schema(schema.replace(change, by)))
    assert problem is not None
    assert "has other arguments" in problem


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 80])
def test_the_reference_passes_its_own_test_in_a_second(dtype: torch.dtype, width: int) -> None:
    before = torch.get_rng_state()
    start = time.process_time()
    error = check(CPU, dtype, width=width)
    assert time.process_time() - start < 1.0
    # In bf16 the largest value of an output, or of a gradient, is off by a few times 2^-8 at most.
    assert 0.0 <= error < (1e-5 if dtype == torch.float32 else 0.025)
    assert torch.equal(torch.get_rng_state(), before), "it changed the random numbers of the training"


def _other_ends(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, **options: Any) -> Tensor:
    return row_by_row(query, key, value, torch.cat([ends[:1], ends[-1:]]), longest, **options)


def _no_window(*given: Any, reach: int = -1, **options: Any) -> Tensor:
    return row_by_row(*given, **options)


def _other_keys(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, **options: Any) -> Tensor:
    """Each score goes to the weight of a neighbour."""
    shifted = torch.cat([key[1:], key[:1]])
    return row_by_row(query, shifted, value, ends, longest, **options)


def _no_gradient_of_keys(query: Tensor, key: Tensor, *given: Any, **options: Any) -> Tensor:
    return row_by_row(query, key.detach() + 0 * key, *given, **options)


def _ignores_dropout(*given: Any, dropout: float = 0.0, **options: Any) -> Tensor:
    return row_by_row(*given, **options)


class _OtherMask(torch.autograd.Function):
    """Its backward pass draws a mask of its own."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        ctx.given = given
        return row_by_row(*given[:5], **given[5])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        leaves = [values.detach().requires_grad_() for values in ctx.given[:3]]
        with torch.enable_grad():
            again = row_by_row(*leaves, *ctx.given[3:5], **ctx.given[5])
        return *torch.autograd.grad(again, leaves, gradients[0]), None, None, None


def _draws_again(*given: Any, **options: Any) -> Tensor:
    result: Tensor = _OtherMask.apply(*given, options)  # type: ignore[no-untyped-call]
    return result


def _fails(*given: Any, **options: Any) -> Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nframes")


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (_other_ends, "output is off by"),
        (_no_window, "output with a window of 8 is off by"),
        (_other_keys, "output is off by"),
        (_no_gradient_of_keys, "d key is off by"),
        (_ignores_dropout, "dropout of a half changes the square of the output by 1.00"),
        (_draws_again, "the backward pass draws another dropout mask"),
        (_fails, "only supports Ampere GPUs or newer.; turn `unpad` off$"),
        (lambda *given, **options: sum(given[:3]) * torch.nan, "output is off by nan"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_kernel_is_refused_with_the_way_out(
    kernel: Callable[..., Tensor], problem: str, dtype: torch.dtype
) -> None:
    with pytest.raises(KernelUnusable, match=problem) as caught:
        check(CPU, dtype, width=64, kernel=kernel)
    assert str(caught.value).startswith("unpad: PyTorch's attention over rows of different lengths on cpu")
    assert str(caught.value).endswith("turn `unpad` off")


def test_an_operator_with_other_arguments_is_refused_before_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.models.varlen.schema_problem", lambda: "PyTorch 9 has other arguments")
    with pytest.raises(KernelUnusable, match="PyTorch 9 has other arguments; turn `unpad` off"):
        check(CPU, torch.float32, width=32, kernel=_fails)


def test_a_device_without_the_operator_is_refused() -> None:
    """On a CPU the operator has no kernel."""
    with pytest.raises(KernelUnusable, match="turn `unpad` off"):
        check(CPU, torch.bfloat16, width=32, kernel=flash)
