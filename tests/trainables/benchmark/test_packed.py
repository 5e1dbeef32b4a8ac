"""Serving without padding on a GPU, whose attention kernel the reference on the host stands in for."""

from __future__ import annotations

import pytest
import torch

from tests.support.serving import CPU, PAD, queries
from trainables.benchmark import VARIANTS, VariantUnavailable
from trainables.benchmark.scenarios.serving import ModelServer
from trainables.benchmark.variants.base import copy_to
from trainables.benchmark.variants.packed import PackedBf16
from trainables.models import varlen
from trainables.models.task_model import TaskModel

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _copies_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedBf16, "copied", lambda variant, model, device: copy_to(model, CPU, variant.dtype))


@pytest.mark.usefixtures("one_thread")
def test_on_a_gpu_attention_is_tested_and_reads_the_boundaries_of_rows(
    model: TaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[tuple[torch.device, torch.dtype, int]] = []
    attended: list[list[int]] = []
    row_by_row = varlen.row_by_row

    def attend(*arguments: torch.Tensor, **options: float) -> torch.Tensor:
        attended.append(arguments[3].tolist())
        return row_by_row(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(varlen, "check", lambda device, dtype, *, width: tested.append((device, dtype, width)))
    monkeypatch.setattr(varlen, "row_by_row", attend)
    rows = queries([6, 9, 20])
    served = ModelServer(VARIANTS["packed_bf16"].prepare(model, GPU), rows, pad_id=PAD, device=CPU, threads=1)
    plain = ModelServer(model.logits, rows, pad_id=PAD, device=CPU, threads=1)
    assert torch.allclose(served.serve_batch([0, 1, 2]), plain.serve_batch([0, 1, 2]), atol=2e-2)
    assert tested == [(GPU, torch.bfloat16, 16)]
    assert attended == [[0, 6, 15, 35]]  # one layer


def test_without_a_kernel_that_works_it_is_unavailable(model: TaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(device: torch.device, dtype: torch.dtype, *, width: int) -> float:
        raise varlen.KernelUnusable(device, "d query is off by 1")

    monkeypatch.setattr(varlen, "check", check)
    with pytest.raises(VariantUnavailable, match="d query is off by 1"):
        VARIANTS["packed_bf16"].prepare(model, GPU)
