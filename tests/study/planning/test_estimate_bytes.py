"""What the engine holds under each ZeRO stage, counted in the bytes of its tensors: what the plan's memory is corrected to."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from study.planning import estimate
from study.planning.estimate import Architecture, Load
from tests.support.pair import WORKERS, Pair
from trainables.hyperparameters import Precision, Training
from trainables.models.encoder import ParameterCount
from trainables.resources import Offload, Resources
from trainables.training.batching import Share
from trainables.training.engine import build_engine, release

WIDTH, LAYERS = 512, 8
TOTAL, LARGEST = LAYERS * WIDTH**2, WIDTH**2
SETTINGS: list[tuple[int, Offload, Precision]] = [
    *((stage, "none", "fp32") for stage in (0, 1, 2, 3)),
    *((stage, "none", "bf16_mixed") for stage in (2, 3)),
]
Held = tuple[int, int]  # bytes of model states, bytes of the buffers for gradients


class Layers(nn.Module):
    """Matrices alone, and the norm of one unit, which is sent to other workers in fp32 where they are in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(1)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_ND = torch.relu(layer(hidden_ND))
        return self.norm(hidden_ND.float().mean(dim=-1, keepdim=True)).sum() + hidden_ND.float().pow(2).mean()


def _storages() -> dict[int, int]:
    """Bytes of every tensor's memory, by where it lies."""
    gc.collect()
    found: dict[int, int] = {}
    for one in gc.get_objects():
        if issubclass(type(one), Tensor):  # not `isinstance`, which asks proxies for what they stand for
            for tensor in (one, one.grad if one.is_leaf else None, getattr(one, "ds_tensor", None)):
                if tensor is not None and tensor.device.type == "cpu":
                    memory = tensor.untyped_storage()
                    found[memory.data_ptr()] = max(found.get(memory.data_ptr(), 0), memory.nbytes())
    return found


def _most_held(stage: int, offload: Offload, precision: Precision, share: Share) -> dict[str, Held]:
    """At each moment of a step, the most of two steps of two micro-batches each."""
    before, found = _storages(), dict[str, Held]()

    def look(moment: str) -> None:
        new = [size for place, size in _storages().items() if before.get(place) != size]
        buffers = sum(size for size in new if size >= 2 * estimate.BUCKET)
        states, most = sum(new) - buffers, found.get(moment, (0, 0))
        found[moment] = (max(states, most[0]), max(buffers, most[1]))

    training = Training(1e-3, 2, 4 * share.workers * 2, 0, precision=precision)
    torch.manual_seed(0)
    engine = build_engine(Layers(), training, share=share, zero_stage=stage, offload=offload)
    update: Callable[..., Any] = torch.optim.AdamW.step

    def stepped(*args: Any, **how: Any) -> Any:
        result = update(*args, **how)
        look("step")
        return result

    torch.optim.AdamW.step = stepped  # type: ignore[method-assign]
    try:
        for _ in range(4):
            rows = torch.randn(4, WIDTH, requires_grad=True)
            rows.register_hook(lambda gradient: look("backward"))  # type: ignore[no-untyped-call]
            loss = engine(rows)
            look("forward")
            engine.backward(loss)
            engine.step()
    finally:
        torch.optim.AdamW.step = update  # type: ignore[method-assign]
    release(engine)
    return found


def _held(rank: int) -> dict[Any, dict[str, Held]]:
    gc.collect()
    gc.freeze()  # a million objects of the libraries: from here on they are looked at no more
    return {setting: _most_held(*setting, Share(rank, WORKERS, 4)) for setting in SETTINGS}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, dict[str, Held]]]:
    """By rank and setting, in processes that hold nothing else."""
    with Pair(tmp_path_factory.mktemp("bytes")) as own:
        return own.run(_held)


def _estimated(stage: int, precision: Precision) -> tuple[float, float]:
    """Bytes of model states and of buffers for gradients, of the same network."""
    network = Architecture(
        ParameterCount(TOTAL, 0), LARGEST, LAYERS, WIDTH, WIDTH, 8, fused_attention=True, vocabulary=0
    )
    resources = Resources(workers=WORKERS, gpus=1, zero_stage=stage)
    load = Load(Training(1e-3, 2, 4 * WORKERS, 0, precision=precision))
    buffers = estimate.buffers_gb(network, resources, load)  # no body, so no copies of its weights
    return 1e9 * estimate.model_states(network, resources).device_gb, 1e9 * buffers


# Bytes a parameter on one of two workers: weights 4, gradients 4, the optimizer's own weights 4, moments 8.
@pytest.mark.parametrize(
    ("stage", "bytes_each"),
    [
        (0, 4 + 4 + 8),
        (1, 4 + 4 + (4 + 8) / 2),
        (2, 4 + (4 + 4 + 8) / 2),
    ],
)
def test_model_states_are_what_the_engine_holds(
    stage: int, bytes_each: float, held: list[dict[Any, dict[str, Held]]]
) -> None:
    assert _estimated(stage, "fp32")[0] == bytes_each * TOTAL
    for rank in range(WORKERS):
        states = {moment: found[0] / TOTAL for moment, found in held[rank][(stage, "none", "fp32")].items()}
        assert max(states["forward"], states["backward"]) == pytest.approx(bytes_each, abs=0.05)
        # Stage 2 has a second copy of this worker's gradients when it steps.
        assert states["step"] < bytes_each + (4 / WORKERS if stage == 2 else 0) + 0.05


def test_zero3_holds_its_part_and_what_it_gathered(held: list[dict[Any, dict[str, Held]]]) -> None:
    for rank in range(WORKERS):
        states = {moment: found[0] / TOTAL for moment, found in held[rank][(3, "none", "fp32")].items()}
        # The last pass went through weights of far fewer than 10^9 elements: they are all still there.
        assert states["forward"] == pytest.approx((4 + 4 + 4 + 8) / 2 + 4, abs=0.05)
        assert states["step"] == pytest.approx((4 + 4 + 4 + 4 + 8) / 2, abs=0.05)
    # And a gradient of the largest module, an eighth of all.
    assert _estimated(3, "fp32")[0] == (20 / 2 + 4 + 4 / LAYERS) * TOTAL


@pytest.mark.parametrize(
    ("stage", "precision", "gb"),
    [(0, "fp32", 0), (1, "fp32", 2), (2, "fp32", 2), (3, "fp32", 2), (2, "bf16_mixed", 4), (3, "bf16_mixed", 3)],
)
def test_gradients_are_reduced_through_buffers_of_one_size(
    stage: int, precision: Precision, gb: float, held: list[dict[Any, dict[str, Held]]]
) -> None:
    """5 x 10^8 elements for a network of two million parameters."""
    assert _estimated(stage, precision)[1] == gb * 1e9
    for rank in range(WORKERS):
        assert max(found[1] for found in held[rank][(stage, "none", precision)].values()) == gb * 1e9
