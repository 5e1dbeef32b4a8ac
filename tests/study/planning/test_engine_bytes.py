"""The engine's memory under each ZeRO stage, counted in bytes of tensors, against the plan's estimates."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from study.planning import memory
from study.planning.architecture import Architecture
from study.planning.stages import Load
from tests.support.pair import WORKERS, Pair
from trainables.hyperparameters import Precision, Training
from trainables.models.encoder import ParameterCount
from trainables.resources import Offload, Resources
from trainables.training.batching import Share
from trainables.training.engine import Layout, build_engine, release

pytestmark = pytest.mark.slow

WIDTH, LAYERS = 512, 8
TOTAL, LARGEST = LAYERS * WIDTH**2, WIDTH**2
SETTINGS: list[tuple[int, Offload, Precision]] = [
    *((stage, "none", "fp32") for stage in (0, 1, 2, 3)),
    *((stage, "none", "bf16_mixed") for stage in (2, 3)),
    *((stage, "none", "bf16_master") for stage in (1, 2, 3)),
]
Peak = tuple[int, int]  # bytes of model states, and of gradient buffers


class Layers(nn.Module):
    """Matrices, and a norm of one unit, whose gradient stays in fp32 where those of matrices are sent in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(1)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_ND = torch.relu(layer(hidden_ND))
        mean_N1 = hidden_ND.float().mean(dim=-1, keepdim=True)
        return self.norm(mean_N1.to(self.norm.weight.dtype)).float().sum() + hidden_ND.float().pow(2).mean()


def _storages() -> dict[int, int]:
    """Peak of every tensor's storage, by address."""
    gc.collect()
    storages: dict[int, int] = {}
    for candidate in gc.get_objects():
        if issubclass(type(candidate), Tensor):  # not `isinstance`, which would resolve proxies
            grad = candidate.grad if candidate.is_leaf else None
            for tensor in (candidate, grad, getattr(candidate, "ds_tensor", None)):
                if tensor is not None and tensor.device.type == "cpu":
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = max(storages.get(storage.data_ptr(), 0), storage.nbytes())
    return storages


def _peaks(stage: int, offload: Offload, precision: Precision, share: Share) -> dict[str, Peak]:
    """At each moment of a step, the peak over two steps of two micro-batches each."""
    before, peaks = _storages(), dict[str, Peak]()

    def record(moment: str) -> None:
        new = [size for address, size in _storages().items() if before.get(address) != size]
        buffers = sum(size for size in new if size >= 2 * memory.BUCKET)
        states, peak = sum(new) - buffers, peaks.get(moment, (0, 0))
        peaks[moment] = (max(states, peak[0]), max(buffers, peak[1]))

    training = Training(1e-3, 2, 4 * share.workers * 2, 0, precision=precision)
    torch.manual_seed(0)
    engine = build_engine(Layers(), training, Layout(share, stage, offload))
    update: Callable[..., Any] = torch.optim.AdamW.step

    def recorded_step(*args: Any, **options: Any) -> Any:
        result = update(*args, **options)
        record("step")
        return result

    torch.optim.AdamW.step = recorded_step  # type: ignore[method-assign]
    try:
        for _ in range(4):
            rows = torch.randn(4, WIDTH, dtype=engine.module.norm.weight.dtype, requires_grad=True)
            rows.register_hook(lambda gradient: record("backward"))  # type: ignore[no-untyped-call]
            loss = engine(rows)
            record("forward")
            engine.backward(loss)
            engine.step()
    finally:
        torch.optim.AdamW.step = update  # type: ignore[method-assign]
    release(engine)
    return peaks


def _all_peaks(rank: int) -> dict[Any, dict[str, Peak]]:
    gc.collect()
    gc.freeze()  # `_storages` skips the million objects that libraries made before
    return {setting: _peaks(*setting, Share(rank, WORKERS, 4)) for setting in SETTINGS}


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, dict[str, Peak]]]:
    """Peaks by rank and setting, in processes that hold no other tensors."""
    with Pair(tmp_path_factory.mktemp("bytes")) as pair:
        return pair.run(_all_peaks)


def _estimated(stage: int, precision: Precision) -> tuple[float, float]:
    """Estimated bytes of the network's model states and gradient buffers."""
    network = Architecture(
        ParameterCount(TOTAL, 0), LARGEST, LAYERS, WIDTH, WIDTH, 8, fused_attention=True, vocabulary=0
    )
    resources = Resources(workers=WORKERS, gpus=1, zero_stage=stage)
    load = Load(Training(1e-3, 2, 4 * WORKERS, 0, precision=precision))
    buffers = memory.buffers_gb(network, resources, load)  # without a body there are no copies of its weights
    return 1e9 * memory.model_states(network, resources, precision).device_gb, 1e9 * buffers


# Peak a parameter on one of two workers: weights 4, gradients 4, the optimizer's copy of the weights 4, moments 8.
@pytest.mark.parametrize(
    ("stage", "bytes_each"),
    [
        (0, 4 + 4 + 8),
        (1, 4 + 4 + (4 + 8) / 2),
        (2, 4 + (4 + 4 + 8) / 2),
    ],
)
def test_model_states_are_what_the_engine_holds(
    stage: int, bytes_each: float, peaks: list[dict[Any, dict[str, Peak]]]
) -> None:
    assert _estimated(stage, "fp32")[0] == bytes_each * TOTAL
    for rank in range(WORKERS):
        states = {moment: peak[0] / TOTAL for moment, peak in peaks[rank][(stage, "none", "fp32")].items()}
        assert max(states["forward"], states["backward"]) == pytest.approx(bytes_each, abs=0.05)
        # In the step, stage 2 holds a second copy of this worker's gradients.
        assert states["step"] < bytes_each + (4 / WORKERS if stage == 2 else 0) + 0.05


# Weights 2, gradients 4, the optimizer's copy of the weights 4, moments 8.
@pytest.mark.parametrize(("stage", "bytes_each"), [(1, 2 + 4 + (4 + 8) / 2), (2, 2 + (4 + 4 + 8) / 2)])
def test_bf16_weights_take_less(stage: int, bytes_each: float, peaks: list[dict[Any, dict[str, Peak]]]) -> None:
    assert _estimated(stage, "bf16_master")[0] == bytes_each * TOTAL
    for rank in range(WORKERS):
        states = {moment: peak[0] / TOTAL for moment, peak in peaks[rank][(stage, "none", "bf16_master")].items()}
        assert states["forward"] == pytest.approx(bytes_each, abs=0.05)
        # A gradient in bf16 exists until it is added to its sum.
        assert states["backward"] < bytes_each + 2 * 2 / LAYERS + 0.05
        assert states["step"] < bytes_each + 0.05


def test_zero3_holds_its_partition_and_gathered_weights(peaks: list[dict[Any, dict[str, Peak]]]) -> None:
    for rank in range(WORKERS):
        states = {moment: peak[0] / TOTAL for moment, peak in peaks[rank][(3, "none", "fp32")].items()}
        # All weights of the last pass stay gathered: they have far fewer than 10^9 elements.
        assert states["forward"] == pytest.approx((4 + 4 + 4 + 8) / 2 + 4, abs=0.05)
        assert states["step"] == pytest.approx((4 + 4 + 4 + 4 + 8) / 2, abs=0.05)
    # The estimate adds a gradient of the largest module, an eighth of the network.
    assert _estimated(3, "fp32")[0] == (20 / 2 + 4 + 4 / LAYERS) * TOTAL


@pytest.mark.parametrize(
    ("stage", "precision", "gb"),
    [
        (0, "fp32", 0),
        (1, "fp32", 2),
        (2, "fp32", 2),
        (3, "fp32", 2),
        (2, "bf16_mixed", 4),
        (3, "bf16_mixed", 3),
        (1, "bf16_master", 0),
        (2, "bf16_master", 1),
        (3, "bf16_master", 1),
    ],
)
def test_gradients_are_reduced_through_buffers_of_one_size(
    stage: int, precision: Precision, gb: float, peaks: list[dict[Any, dict[str, Peak]]]
) -> None:
    """5 x 10^8 elements, even for a network of two million parameters."""
    copied = 4 * TOTAL if precision == "bf16_master" and stage > 1 else 0  # for a moment, in fp32
    assert _estimated(stage, precision)[1] == pytest.approx(gb * 1e9 + copied)
    for rank in range(WORKERS):
        assert max(peak[1] for peak in peaks[rank][(stage, "none", precision)].values()) == gb * 1e9
