"""Float8 serving. Neither a GPU nor torchao is needed for what is asked of them."""

from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.serving import CPU, benchmark_of
from trainables.benchmark import VARIANTS, VariantUnavailable
from trainables.models.task_model import TaskModel

GPU = torch.device("cuda")


def _found(*modules: str) -> Any:
    return lambda name, *_: object() if name in modules else None


def test_without_torchao_it_is_unavailable_with_the_reason(model: TaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _found())
    with pytest.raises(VariantUnavailable, match=r"torchao not installed; pip install 'xstilts\[float8\]'"):
        benchmark_of(model).measure("float8")


def test_what_it_needs_besides_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _found("torchao", "triton"))
    assert VARIANTS["float8"].unavailable(CPU) == "float8 has kernels for GPUs only"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))  # A100
    assert "8.9" in str(VARIANTS["float8"].unavailable(GPU))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))  # H100
    assert VARIANTS["float8"].unavailable(GPU) is None


def test_a_bf16_copy_of_the_encoder_is_quantised_by_row(model: TaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    quantised: list[tuple[nn.Module, Any]] = []

    @dataclass
    class Config:
        granularity: object
        set_inductor_config: bool

    class PerRow: ...

    torchao: Any = ModuleType("torchao.quantization")
    torchao.Float8DynamicActivationFloat8WeightConfig, torchao.PerRow = Config, PerRow
    torchao.quantize_ = lambda module, config: quantised.append((module, config))
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", torchao)
    before = copy.deepcopy(model.state_dict())
    served = VARIANTS["float8"].weights(model, CPU)
    ((encoder, config),) = quantised
    assert encoder is served.encoder
    assert encoder is not model.encoder
    assert isinstance(config.granularity, PerRow)
    assert not config.set_inductor_config
    assert {weight.dtype for weight in served.parameters()} == {torch.bfloat16}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
