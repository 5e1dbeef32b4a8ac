"""Resources: what a worker requests of a node, on how many workers a trial may run, and impossible combinations."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.resources import Resources, worker_request


@pytest.mark.parametrize(
    ("resources", "request_of_a_worker"),
    [
        (Resources(workers=4, cpus=2), {"CPU": 2}),
        (Resources(cpus=8, gpus=1), {"CPU": 8, "GPU": 1}),
        (Resources(memory_gb=1.5), {"CPU": 1, "memory": 1_500_000_000}),
        (
            Resources(workers=2, gpus=1, accelerator_type="H100"),
            {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001},
        ),
        (Resources(gpus=0.25, gpu_memory_gb=10, bf16_gpu=True), {"CPU": 1, "GPU": 0.25}),
    ],
)
def test_what_a_worker_requests(resources: Resources, request_of_a_worker: dict[str, float]) -> None:
    assert worker_request(resources) == request_of_a_worker


def test_a_trial_may_shrink_to_its_fewest_workers() -> None:
    assert Resources(workers=8, fewest_workers=2).worker_counts == (8, 4, 2)
    assert Resources(workers=8, fewest_workers=3).worker_counts == (8, 4)
    assert Resources(workers=6, fewest_workers=1).worker_counts == (6, 3)
    assert Resources(workers=8).worker_counts == (8,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "impossible resources"),
        ({"gpus": 2}, "gpus is 0, 1 or a share of one: 0.5, 0.25, 0.125"),
        ({"gpus": 0.3}, "gpus is 0, 1 or a share of one"),
        ({"gpus": 0.5, "workers": 2}, "only a single worker can have a share of a GPU"),
        ({"gpu_memory_gb": 24}, "gpus is 0: set gpus"),
        ({"bf16_gpu": True}, "gpus is 0: set gpus"),
        ({"gpus": 1, "gpu_memory_gb": 0}, "gpu_memory_gb 0: must be positive"),
        ({"zero_stage": 4}, "zero_stage 4: DeepSpeed has stages 0 to 3"),
        ({"offload": "disk"}, "must be one of none, optimizer, parameters"),
        ({"offload": "parameters", "zero_stage": 2}, "with zero_stage 2: needs ZeRO stage 3 or higher"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens 0: must be at least 1, or None"),
        ({"memory_gb": 0.0}, "memory_gb 0.0: must be positive"),
        ({"workers": 2, "fewest_workers": 3}, r"must be from 1 to workers \(2\)"),
    ],
)
def test_impossible_resources_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resources(**settings)
