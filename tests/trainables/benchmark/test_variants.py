"""Serving variants of a tiny model, built in and defined by a recipe."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.serving import CPU, PAD, KnownService, benchmark_of, queries
from trainables.benchmark import VARIANTS, VariantUnavailable
from trainables.benchmark.scenarios.serving import ModelServer
from trainables.benchmark.variants import ServedTokens, Variant, variant_named
from trainables.benchmark.variants.base import copy_to
from trainables.models.task_model import TaskModel

# Largest difference from fp32 that 8 bits of mantissa, or 8-bit weights, may cause in logits below 1.
_BF16 = ("bf16", "compiled_bf16", "openvino_bf16", "packed_bf16")
_INT8 = ("int8", "onnx_int8", "cut_int8", "cut_onnx_int8")
TOLERANCES = dict.fromkeys((*_BF16, *_INT8), 2e-2)
SLOW = {
    "compiled",
    "compiled_bf16",
    "cut_onnx_int8",
    "onnx",
    "onnx_int8",
    "openvino",
    "openvino_bf16",
}  # they compile or convert the model


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in VARIANTS]
)
def test_a_variant_agrees_with_fp32_and_does_not_change_the_callers_model(name: str, model: TaskModel) -> None:
    if reason := VARIANTS[name].unavailable(CPU):
        pytest.skip(reason)
    before = copy.deepcopy(model.state_dict())
    reference = ModelServer(model.logits, queries([6, 9]), pad_id=PAD, device=CPU, threads=1)
    variant = VARIANTS[name].for_texts(lambda: ServedTokens(tuple(range(50)), unknown=3))
    server = ModelServer(variant.prepare(model, CPU), queries([6, 9]), pad_id=PAD, device=CPU, threads=1)
    tolerance = TOLERANCES.get(name, 1e-5)
    assert torch.allclose(server.serve_batch([0, 1]), reference.serve_batch([0, 1]), atol=tolerance)
    assert not torch.allclose(reference.serve_batch([0]), torch.zeros(1, 3), atol=5 * tolerance)
    after = model.state_dict()
    assert all(after[key].dtype == value.dtype and torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.usefixtures("one_thread")
def test_a_copy_is_created_in_its_own_dtype(model: TaskModel) -> None:
    """A host that holds 43 GB of weights has no memory for a second fp32 copy, only to serve in bf16 on a GPU."""

    class NewFloats(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Collects new fp32 tensors."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.tensors: list[torch.Tensor] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32 and result.numel() > 1:
                self.tensors += [] if result._is_view() or function is torch.ops.aten.detach.default else [result]
            return result

    with NewFloats() as new_floats:
        copied = copy_to(model, CPU, torch.bfloat16)
    assert not new_floats.tensors
    assert {weight.dtype for weight in copied.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert [name for name, _ in copied.named_parameters()] == [name for name, _ in model.named_parameters()]
    for (name, before), after in zip(model.state_dict().items(), copied.state_dict().values(), strict=True):
        assert torch.equal(before.to(after.dtype), after), name
    assert len({id(weight) for weight in copied.parameters()}) == len({id(weight) for weight in model.parameters()})
    assert not copied.training


def test_a_model_in_training_mode_is_served_in_evaluation_mode_and_stays_in_training_mode(model: TaskModel) -> None:
    model.train()  # with the default dropout of 0.1 two runs would differ
    forward = VARIANTS["fp32"].prepare(model, CPU)
    ids, mask = torch.arange(5, 13)[None], torch.ones(1, 8, dtype=torch.long)
    assert torch.equal(forward(ids, mask), forward(ids, mask))
    assert model.training


def test_bf16_is_unavailable_on_a_cpu_without_it(model: TaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.benchmark.variants.eager.cpu_has_bf16", lambda: False)
    with pytest.raises(VariantUnavailable, match="emulates bf16") as caught:
        benchmark_of(model).measure("bf16")
    copied = pickle.loads(pickle.dumps(caught.value))  # as it leaves a worker process
    assert (copied.name, copied.reason) == ("bf16", caught.value.reason)


def test_an_unknown_variant_is_refused_by_name(model: TaskModel) -> None:
    with pytest.raises(ValueError, match=r"no serving variant 'fp64'; there are bf16, compiled, "):
        benchmark_of(model).measure("fp64")


def test_a_variant_of_the_callers_own_needs_no_registration_but_another_name() -> None:
    class Fp32(KnownService):
        name = "fp32"

    own = KnownService()
    assert variant_named(own) is own
    assert variant_named("fp32") is VARIANTS["fp32"] is variant_named(VARIANTS["fp32"])
    with pytest.raises(ValueError, match="'fp32' of class Fp32 has the name of a built-in variant"):
        variant_named(Fp32())


def test_every_variant_of_the_folder_is_built_in_under_a_name_of_its_own() -> None:
    classes, concrete = [Variant], set()
    while classes:
        classes += (cls := classes.pop()).__subclasses__()
        if cls.__module__.startswith(f"{Variant.__module__.rpartition('.')[0]}.") and not inspect.isabstract(cls):
            concrete.add(cls)
    assert {type(variant) for variant in VARIANTS.values()} == concrete
