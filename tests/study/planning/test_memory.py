"""Memory of training, scoring and serving, against counts by hand and DeepSpeed's own estimates."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

from study.planning import memory
from study.planning.architecture import architecture_of
from study.planning.stages import Load
from tests.support import recipes
from tests.support.architectures import SMALL
from trainables.hyperparameters import Precision, Training
from trainables.models.encoder import (
    ParameterCount,
)
from trainables.resources import Offload, Resources


@pytest.mark.parametrize(
    ("workers", "zero1", "zero2", "zero3", "zero3_offloaded"),
    [
        # 1000 parameters, 400 of them in one module; `tests/study/planning/test_engine_bytes.py` counts what the engine holds.
        (1, 8000 + 12_000, 4000 + 16_000, 20_000 + 4000 + 1600, 4000 + 4000 + 1600),
        (4, 8000 + 3000, 4000 + 4000, 5000 + 4000 + 1600, 1000 + 4000 + 1600),
        (16, 8000 + 750, 4000 + 1000, 1250 + 4000 + 1600, 250 + 4000 + 1600),
    ],
)
def test_device_memory_by_hand(workers: int, zero1: int, zero2: int, zero3: int, zero3_offloaded: int) -> None:
    def device_bytes(**options: Any) -> int:
        return round(memory.model_states(SMALL, Resources(workers=workers, gpus=1, **options)).device_gb * 1e9)

    assert device_bytes(zero_stage=0) == 16_000
    assert device_bytes(zero_stage=1) == zero1
    assert device_bytes(zero_stage=2) == zero2
    assert device_bytes(zero_stage=3) == zero3
    assert device_bytes(zero_stage=1, offload="optimizer") == 8000
    assert device_bytes(zero_stage=2, offload="optimizer") == 4000
    assert device_bytes(zero_stage=3, offload="optimizer") == zero3_offloaded
    assert device_bytes(zero_stage=3, offload="parameters") == 4000 + 1600


def test_no_more_weights_than_deepspeed_lets_live_are_gathered_at_once() -> None:
    large = dataclasses.replace(SMALL, count=ParameterCount(10**10, 10**10), largest=3 * 10**8)
    eight = Resources(workers=8, gpus=1, zero_stage=3)
    # 20 / 8 of ten billion, weights of a billion, a gradient of 0.3 billion.
    assert memory.model_states(large, eight).device_gb == pytest.approx(25 + 4 + 1.2)
    larger = dataclasses.replace(large, largest=2 * 10**9)
    assert memory.model_states(larger, eight).device_gb == pytest.approx(25 + 8 + 8)


@pytest.mark.parametrize(("workers", "nodes", "each"), [(1, 1, 1), (4, 1, 4), (16, 2, 8)])
def test_host_memory_is_what_deepspeed_estimates(workers: int, nodes: int, each: int) -> None:
    def host_bytes(**options: Any) -> int:
        return round(memory.model_states(SMALL, Resources(workers=workers, gpus=1, **options)).host_gb * 1e9)

    place = {"num_gpus_per_node": each, "num_nodes": nodes}
    for offload in ("none", "optimizer"):
        host, _ = estimate_zero2_model_states_mem_needs(1000, **place, cpu_offload=offload != "none")
        assert host_bytes(zero_stage=2, offload=offload) == host
    for offload, moved in (("none", {"cpu_offload": False}), ("optimizer", {"cpu_offload_params": False})):
        host, *_ = estimate_zero3_model_states_mem_needs(1000, 400, **place, zero_init=workers > 1, **moved)
        assert host_bytes(zero_stage=3, offload=offload) == host


def test_a_group_under_zero3_never_reads_the_whole_encoder_and_scoring_does() -> None:
    """Host memory with half added on top, as DeepSpeed does."""

    def host_bytes(workers: int, offload: Offload) -> int:
        resources = Resources(workers=workers, gpus=1, zero_stage=3, offload=offload)
        return round(memory.model_states(SMALL, resources).host_gb * 1e9)

    assert host_bytes(1, "none") == 1.5 * 4 * 1000  # the whole encoder
    assert host_bytes(8, "none") == 1.5 * 4 * 400 * 8  # the largest module, by each of the node's workers
    assert host_bytes(8, "optimizer") == 1.5 * 16 * 1000  # not 32, eight whole encoders
    assert host_bytes(16, "optimizer") == 1.5 * 16 * 1000 / 2  # on two nodes
    for workers, on_a_node in ((1, 1), (8, 8), (16, 8)):
        scoring = memory.scoring_memory(SMALL, Resources(workers=workers, gpus=1, zero_stage=3), 16)
        assert scoring.host_gb * 1e9 == pytest.approx(on_a_node * 4 * 1000)


def test_activations_by_hand_and_what_fits() -> None:
    training = Training(1e-3, 1, 8, 0, precision="bf16_mixed", max_length=16)
    load = Load(training)
    resources = Resources(workers=2, micro_batch=64, gpus=1, accelerator_type="T4")  # four rows each
    assert memory.activations_gb(SMALL, resources, load) * 1e9 == pytest.approx(2 * 64 * 34 * 8)
    plain = dataclasses.replace(SMALL, fused_attention=False)
    assert memory.activations_gb(plain, resources, load) * 1e9 == pytest.approx(2 * 64 * (34 * 8 + 5 * 2 * 16))
    biased = dataclasses.replace(SMALL, attention_bias=True)
    assert memory.activations_gb(biased, resources, load) * 1e9 == pytest.approx(2 * 64 * (34 * 8 + 2 * 2 * 16))
    kept = dataclasses.replace(resources, activation_checkpointing=True)
    assert memory.activations_gb(SMALL, kept, load) * 1e9 == pytest.approx(2 * 64 * 2 * 8 + 64 * 34 * 8)
    five = memory.activations_gb(SMALL, resources, Load(training, rows=5))
    assert five * 1e9 == pytest.approx(5 * 2 * 64 * 34 * 8)
    # Four features are read against each other: a micro-batch of one holds all four.
    narrow = dataclasses.replace(resources, micro_batch=1)
    assert memory.activations_gb(SMALL, narrow, load) * 1e9 == pytest.approx(2 * 16 * 34 * 8)
    assert memory.activations_gb(SMALL, narrow, Load(training, group=4)) * 1e9 == pytest.approx(2 * 64 * 34 * 8)
    billion = dataclasses.replace(SMALL, count=ParameterCount(10**9, 10**9))
    assert memory.training_fits(SMALL, resources, [load]) is True
    # 16 GB of model states do not fit into nine tenths of 16 GB.
    assert memory.training_fits(billion, dataclasses.replace(resources, workers=1), [load]) is False
    assert memory.training_fits(billion, dataclasses.replace(resources, gpus=0), [load]) is None
    with pytest.raises(ValueError, match="needs ZeRO stage 3 or higher"):
        Resources(zero_stage=2, offload="parameters")


def test_the_widest_batch_decides_what_fits() -> None:
    """64 rows of 512 tokens have 33 GB of activations in bf16: a card of 40 GB holds them, but not a group of 64 pairs."""
    network = dataclasses.replace(SMALL, layers=24, width=1024)
    training = Training(1e-3, 1, 64, 0, precision="bf16_mixed", max_length=512)
    one, two = Load(training), Load(training, rows=2, group=64)
    card = Resources(gpus=1, accelerator_type="A100-40G")
    assert memory.activations_gb(network, card, one) == pytest.approx(24 * 64 * 512 * 34 * 1024 / 1e9)
    assert memory.training_fits(network, card, [one]) is True
    assert memory.training_fits(network, card, [one, two]) is False
    assert memory.activations_gb(network, card, Load(training, rows=2)) == memory.activations_gb(network, card, one)


def test_a_budget_of_tokens_limits_activations_to_itself() -> None:
    """Rows of any length can use it up; one group that exceeds it is processed all the same."""
    load = Load(Training(1e-3, 1, 64, 0, precision="bf16_mixed", max_length=100))
    card = Resources(gpus=1, accelerator_type="T4", micro_batch=256, micro_batch_tokens=1050)
    assert memory.tokens_at_once(dataclasses.replace(card, micro_batch_tokens=None), load) == 6400
    assert memory.tokens_at_once(card, load) == 1050
    assert memory.tokens_at_once(card, load, fill=0.5) == 1050
    assert memory.tokens_at_once(dataclasses.replace(card, micro_batch=5), load) == 500
    assert memory.tokens_at_once(dataclasses.replace(card, micro_batch_tokens=10**6), load) == 6400
    together, pretraining = dataclasses.replace(load, group=16), dataclasses.replace(load, by_tokens=False)
    assert [memory.tokens_at_once(card, each) for each in (together, pretraining)] == [1600, 6400]
    assert memory.activations_gb(SMALL, card, load) * 1e9 == pytest.approx(2 * 1050 * 34 * 8)


def test_buffers_by_hand() -> None:
    def buffer_bytes(zero_stage: int, precision: Precision, **options: Any) -> float:
        load = Load(Training(1e-3, 1, 8, 0, precision=precision), **options)
        return memory.buffers_gb(SMALL, Resources(gpus=1, zero_stage=zero_stage), load) * 1e9

    # bf16 copies of the body's 600 parameters, and of the table of 50 x 8 if it scores masked tokens.
    assert buffer_bytes(0, "fp32") == 0
    assert buffer_bytes(0, "bf16_mixed") == pytest.approx(1200)
    assert buffer_bytes(0, "bf16_mixed", masked=True) == pytest.approx(1200 + 800)
    assert buffer_bytes(2, "bf16_mixed") == pytest.approx(4e9 + 1200)
    assert buffer_bytes(3, "bf16_mixed", masked=True) == pytest.approx(3e9)
    # bf16 weights are not copied; a bucket of bf16 gradients is, in fp32.
    assert [buffer_bytes(stage, "bf16_master") for stage in (0, 1, 2, 3)] == pytest.approx(
        [0, 0, 1e9 + 4000, 1e9 + 4000]
    )
    # On CPUs a bucket has no more elements than there are gradients.
    on_cpus = Load(Training(1e-3, 1, 8, 0, precision="bf16_mixed"))
    assert memory.buffers_gb(SMALL, Resources(2, zero_stage=2), on_cpus) * 1e9 == pytest.approx(8 * 1000 + 1200)


def test_a_step_of_the_optimizer_can_take_more_than_a_pass() -> None:
    """A billion parameters on two workers: 4 + 16 / 2 GB, and in the step 4 / 2 more, as much as the buffers in a pass."""
    billion = dataclasses.replace(SMALL, count=ParameterCount(10**9, 10**9))
    load = Load(Training(1e-3, 1, 8, 0, max_length=16))
    assert memory.training_gb(billion, Resources(2, gpus=1, zero_stage=2), load) == pytest.approx(14, abs=0.01)
    assert memory.training_gb(billion, Resources(1, gpus=1, zero_stage=2), load) == pytest.approx(24)
    offloaded = Resources(1, gpus=1, zero_stage=2, offload="optimizer")
    assert memory.training_gb(billion, offloaded, load) == pytest.approx(4 + 2, abs=0.01)


def test_scoring_takes_the_whole_encoder_on_every_card() -> None:
    alone = memory.scoring_memory(SMALL, Resources(gpus=1, zero_stage=0), 16)
    shared = memory.scoring_memory(SMALL, Resources(workers=8, gpus=1, zero_stage=3, offload="parameters"), 16)
    # Weights, and one layer of 4096 tokens in fp32.
    assert alone.device_gb == shared.device_gb == pytest.approx((4 * 1000 + 2 * 4096 * 34 * 8) / 1e9)
    kept = memory.scoring_memory(SMALL, Resources(gpus=1), 16, layers_kept=True)
    assert (kept.device_gb - alone.device_gb) * 1e9 == pytest.approx(4 * 4096 * 8 * 2)
    assert memory.scoring_fits(SMALL, Resources(gpus=1, accelerator_type="T4"), 16) is True
    assert memory.scoring_fits(SMALL, Resources(gpus=1, accelerator_type="M3"), 16) is None


def test_pretraining_is_part_of_the_memory_verdict() -> None:
    """With two groups a batch, 8 pairs a group make 32 rows, and 20,000 pairs 80,000 rows with 22 GB of activations."""
    study = recipes.inline()
    resources = Resources(gpus=1, accelerator_type="T4")
    size = dataclasses.replace(study.sizes[0], resources=resources)

    def verdict(pairs: int) -> str:
        grouped = dataclasses.replace(study, sizes=(size,), group_pairs=pairs)
        return memory.memory_verdict(grouped, size, architecture_of(grouped, size))

    assert {pairs: verdict(pairs) for pairs in (8, 20_000)} == {8: "yes", 20_000: "NO"}
