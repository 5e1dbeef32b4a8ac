"""Which of a cluster's GPUs meet a request by memory and capability, and which of them is chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ray.util.accelerators import accelerators as names_of_ray

from study.cluster.accelerators import ACCELERATORS, declared_accelerator, suitable
from study.cluster.capacity import Capacity, NodeGroup
from study.cluster.gpus import with_accelerators
from study.errors import CannotRun
from study.spec import Size
from tests.support import recipes
from trainables.resources import Resources

ENCODER = recipes.tiny().sizes[0].encoder


def _group(*types: str, gpus: float = 8, nodes: int = 2) -> NodeGroup:
    marks = {f"accelerator_type:{name}": 1.0 for name in types}
    return NodeGroup("+".join(types), {"CPU": 96.0, "GPU": gpus, **marks}, nodes)


def _size(name: str = "a", **options: Any) -> Size:
    return Size(name, ENCODER, Resources(**{"gpus": 1, **options}))


def _chosen(size: Size, *groups: NodeGroup) -> str | None:
    (resolved,) = with_accelerators([size], capacity=Capacity(groups))
    assert resolved.encoder == size.encoder
    return resolved.resources.accelerator_type


def test_every_accelerator_is_one_of_ray_s_names() -> None:
    names = {value for value in vars(names_of_ray).values() if isinstance(value, str)}
    assert set(ACCELERATORS) <= names


def test_any_card_with_enough_memory_will_do() -> None:
    """A request that H100 meets is met by H200 as well; a cluster of one kind needs no type at all."""
    needs = _size(gpu_memory_gb=80, bf16_gpu=True)
    for name in ("H100", "H200", "B200", "AMD-Instinct-MI300X-OAM", "A100-80G"):
        assert _chosen(needs, NodeGroup("head", {"CPU": 4.0}, 1), _group(name)) is None
    assert _chosen(dataclasses.replace(needs, resources=Resources(gpus=1)), _group("T4")) is None
    insists = _size(gpu_memory_gb=80, accelerator_type="A100")
    assert _chosen(insists, _group("T4"), _group("A100")) == "A100"


def test_the_smallest_suitable_card_that_can_hold_a_trial_is_chosen_and_said() -> None:
    cluster = (_group("T4"), _group("H200"), _group("A100"), _group("L4"))
    assert _chosen(_size(gpu_memory_gb=24, bf16_gpu=True), *cluster) == "L4"
    assert _chosen(_size(bf16_gpu=True), *cluster) == "L4"
    assert _chosen(_size(gpu_memory_gb=16), *cluster) == "T4"
    assert _chosen(_size(gpu_memory_gb=48), *cluster) == "H200"
    # Half of a card must have 24 GB: the whole one 48.
    assert _chosen(_size(gpus=0.5, gpu_memory_gb=24), *cluster) == "H200"
    assert _chosen(_size(gpus=0.5, gpu_memory_gb=20), *cluster) == "A100"
    four = _size(workers=4, zero_stage=2, gpu_memory_gb=24)
    assert _chosen(four, _group("L4", gpus=1, nodes=1), _group("A100")) == "A100", "one L4 holds no trial"
    lines: list[str] = []
    with_accelerators([_size(gpus=0.5, gpu_memory_gb=20, bf16_gpu=True)], capacity=Capacity(cluster), say=lines.append)
    assert lines == ["a asks for GPU 40 GB bf16: it trains on A100"]


def test_a_node_may_say_that_its_a100_is_the_larger_one() -> None:
    assert _chosen(_size(gpu_memory_gb=80), _group("T4"), _group("A100", "A100-80G")) == "A100-80G"
    with pytest.raises(CannotRun, match="an A100 counts as one of 40 GB; if these have 80, insist on them"):
        _chosen(_size(gpu_memory_gb=80), _group("A100"))


def test_sizes_that_no_gpu_is_known_to_suit_are_refused_together() -> None:
    sizes = [_size("small", gpu_memory_gb=16), _size("large", gpu_memory_gb=80), _size("larger", gpu_memory_gb=500)]
    with pytest.raises(CannotRun) as refused:
        with_accelerators(sizes, capacity=Capacity((_group("T4"), _group("GeForce-RTX-5090"))))
    first, second = str(refused.value).split("\nerror: ")
    assert first.startswith("size large asks for GPU 80 GB, and no GPU of the cluster is known to have that: T4, 2 of")
    assert "nothing is known about GeForce-RTX-5090: insist on it by accelerator_type" in first
    assert second.startswith("size larger asks for GPU 500 GB")


def test_a_share_of_a_card_is_counted_by_single_gpus() -> None:
    capacity = Capacity((_group("L4", gpus=2, nodes=3),))
    assert capacity.max_trials(Resources(gpus=0.25)) == 24
    assert capacity.max_trials(Resources(gpus=0.5, cpus=40)) == 6, "cores allow two a node"


def test_a_request_is_planned_on_the_least_card_that_meets_it() -> None:
    assert suitable(Resources(gpus=1, gpu_memory_gb=80, bf16_gpu=True))[:3] == ("A100-80G", "H100", "H200")
    card = declared_accelerator(Resources(gpus=1, gpu_memory_gb=60, bf16_gpu=True))
    assert card is not None
    assert (card.memory_gb, card.bf16_tflops) == (60, 312), "what is asked for must hold it, not the card that may come"
    shared = declared_accelerator(Resources(gpus=0.5, gpu_memory_gb=12, bf16_gpu=True))
    assert shared is not None
    assert (shared.memory_gb, shared.holds(10.8, share=0.5), shared.holds(10.9, share=0.5)) == (24, True, False)
    assert declared_accelerator(Resources(gpus=1)) is None
    assert declared_accelerator(Resources()) is None
    assert declared_accelerator(Resources(gpus=1, gpu_memory_gb=500)) is None
