"""Dropout on CPUs: masks from packed bits have the rate and the scale of PyTorch's, and a step's seed determines them."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch.fx import GraphModule
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainables.hyperparameters import Training
from trainables.models.dropout import mask, packed_dropout
from trainables.training.batching import Share
from trainables.training.engine import Layout, managed_engine
from trainables.training.loop import train

CPU = torch.device("cpu")
SHAPE = torch.Size([401, 501])  # an odd number of elements: the last word of bits is used in part


def dropped(values: Tensor) -> float:
    return float((values == 0).double().mean())


@pytest.mark.parametrize("p", [0.05, 0.1, 1 / 3, 0.9])
def test_elements_are_dropped_at_the_rate_and_the_others_scaled(p: float) -> None:
    torch.manual_seed(0)
    values = mask(SHAPE, p, torch.float32)
    assert abs(dropped(values) - p) < 4 * math.sqrt(p * (1 - p) / SHAPE.numel())
    kept = 1.0 - round(p * 65536) / 65536
    assert set(values.flatten().tolist()) == {0.0, float(torch.tensor(1.0 / kept))}


@pytest.mark.parametrize("p", [1e-6, 1e-5, 0.99, 0.9999])
def test_extreme_rates_keep_the_expectation(p: float) -> None:
    """Rounded alike in rate and scale. Four standard deviations of the mean of the elements."""
    torch.manual_seed(0)
    values = mask(torch.Size([4_000_000]), p, torch.float64)
    assert abs(float(values.mean()) - 1.0) < 4 * math.sqrt(p / (1 - p) / len(values)) + 1e-5


def test_the_four_masks_of_a_word_are_independent() -> None:
    torch.manual_seed(0)
    lanes = (mask(torch.Size([100_000, 4]), 0.5, torch.float64) == 0).double()
    assert (torch.corrcoef(lanes.T) - torch.eye(4)).abs().max() < 4 / math.sqrt(100_000)


def test_compiled_layers_draw_their_own_masks() -> None:
    """Python code is generated for the graph, as Inductor does; `aten.random.from` is no Python."""

    graphs: list[str] = []

    def compiled(graph: GraphModule, inputs: list[Tensor]) -> Any:
        compile(graph.code, "graph", "exec")
        graphs.append(graph.code)
        return make_boxed_func(graph.forward)

    module = nn.Dropout(0.5)
    layer = torch.compile(lambda inputs: 2 * module(inputs), backend=aot_autograd(fw_compiler=compiled), fullgraph=True)
    torch.manual_seed(0)
    with packed_dropout(CPU):
        values = layer(torch.ones(SHAPE, requires_grad=True))
        values.sum().backward()
    assert graphs
    assert dropped(values) == pytest.approx(0.5, abs=0.01)


def test_modules_and_functions_use_the_masks_and_gradients_pass_through_them() -> None:
    inputs = torch.ones(SHAPE, requires_grad=True)
    with packed_dropout(CPU):
        torch.manual_seed(3)
        through_module = nn.Dropout(0.1)(inputs)
        torch.manual_seed(3)
        through_function = functional.dropout(inputs, p=0.1, training=True)
    torch.manual_seed(3)
    expected = mask(SHAPE, 0.1, torch.float32)
    assert torch.equal(through_module, expected)
    assert torch.equal(through_function, expected)
    through_module.sum().backward()
    torch.testing.assert_close(inputs.grad, expected, rtol=0, atol=0)


def test_without_training_or_rate_nothing_changes_and_no_random_number_is_drawn() -> None:
    inputs = torch.ones(5)
    state = torch.random.get_rng_state()
    with packed_dropout(CPU):
        assert functional.dropout(inputs, 0.5, training=False) is inputs
        assert functional.dropout(inputs, 0.0) is inputs
        assert nn.Dropout(0.5).eval()(inputs) is inputs
    assert torch.equal(torch.random.get_rng_state(), state)


def test_everything_can_be_dropped_and_other_rates_are_refused() -> None:
    with packed_dropout(CPU):
        assert functional.dropout(torch.ones(5), 1.0).sum() == 0
        with pytest.raises(ValueError, match="between 0 and 1"):
            functional.dropout(torch.ones(5), 1.5)


def test_pytorch_draws_its_own_masks_elsewhere() -> None:
    inputs = torch.ones(1000)
    torch.manual_seed(0)
    before = functional.dropout(inputs, 0.5)
    torch.manual_seed(0)
    with packed_dropout(torch.device("cuda")):
        assert torch.equal(functional.dropout(inputs, 0.5), before)
    with packed_dropout(CPU):
        pass
    torch.manual_seed(0)
    assert torch.equal(functional.dropout(inputs, 0.5), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_have_the_type_of_what_they_drop(dtype: torch.dtype) -> None:
    with packed_dropout(CPU):
        assert functional.dropout(torch.ones(9, dtype=dtype), 0.1).dtype == dtype


class Probe(nn.Module):
    """Its loss is what dropout leaves of a vector of ones, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SHAPE[1]))
        self.dropout = nn.Dropout(0.25)
        self.kept: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.dropout(inputs)
        self.kept.append(outputs.detach())
        return (outputs * self.weight).sum()


class OneBatch:
    """The same batch at every step."""

    group = rows = 1

    def micro_batch_rows(self, batch_size: int, share: Share) -> int:
        return 1

    def micro_batches(self, step: int, share: Share) -> list[dict[str, Tensor]]:
        return [{"inputs": torch.ones(1, SHAPE[1])}]

    def weight(self, step: int) -> float:
        return 1.0


def test_the_training_loop_draws_these_masks() -> None:
    training, share = Training(learning_rate=1e-6, steps=2, batch_size=1, seed=7), Share(0, 1, 1)
    with managed_engine(probe := Probe(), training, Layout(share)) as engine:
        train(engine, OneBatch(), training, share=share, device=CPU)
    for step, kept in enumerate(probe.kept):
        torch.manual_seed(random.Random(f"7|{step}|0").getrandbits(63))
        assert torch.equal(kept, mask(kept.shape, 0.25, kept.dtype))
    assert not torch.equal(*probe.kept)


def test_recomputed_activations_get_the_same_masks() -> None:
    """Activation checkpointing runs a layer again in the backward pass, from the random state it had."""
    inputs = torch.ones(SHAPE, requires_grad=True)
    with packed_dropout(CPU):
        output = checkpoint(nn.Dropout(0.25), inputs, use_reentrant=False)
        output.sum().backward()
    torch.testing.assert_close(inputs.grad, output.detach(), rtol=0, atol=0)
