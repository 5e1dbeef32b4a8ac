"""Which sizes fit on the clusters that the files describe, which GPU they get, and where a driver reads that."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay import node_provider

from study.benchmarking import placement
from study.benchmarking.placement import placement_of
from study.cluster import capacity as capacity_module
from study.cluster.capacity import Capacity, NodeGroup, capacity_of_config
from study.cluster.gpus import with_accelerators
from study.errors import CannotRun
from study.planning.architecture import architecture_of
from study.planning.memory import serving_fits
from study.recipes import load_recipe
from study.recipes.one_vs_ten_billion import one_vs_ten_billion
from study.recipes.xtreme_r import xtreme_r
from study.run.pretraining import import_bytes
from study.spec import Study
from tests.clusters.documents import CLUSTERS, Document, description, kuberay_config, manifest
from trainables.resources import ACCELERATOR, Resources


def capacity_of(name: str) -> Capacity:
    """Of a cloud's description, or of the RayCluster."""
    return capacity_of_config(kuberay_config() if name == "kuberay" else description(name))


@pytest.mark.parametrize("name", ["aws", "kuberay"])
@pytest.mark.parametrize("recipe", [xtreme_r, one_vs_ten_billion])
def test_every_size_of_the_big_recipes_fits(name: str, recipe: Callable[[], Any]) -> None:
    """So does the import of a published encoder."""
    capacity = capacity_of(name)
    for size in with_accelerators(recipe().sizes, capacity=capacity):
        assert capacity.max_trials(size.resources) >= 1, size.name
    assert capacity.max_trials(Resources()) >= 1


@pytest.mark.parametrize("name", ["aws", "gcp", "kuberay"])
def test_an_import_requests_its_memory_although_the_head_does_not_say_what_it_has(name: str) -> None:
    """XLM-R XXL takes 43 GB of weights, more than a node of the group for small tasks has."""
    config = kuberay_config() if name == "kuberay" else description(name)
    if name == "aws":  # Ray asks AWS for the memory of its workers' machines, and not of the head's
        for group in config["available_node_types"].values():
            if group["resources"].get("CPU"):
                group["resources"]["memory"] = 24e9 if "GPU" not in group["resources"] else 48e9
    capacity = capacity_of_config(config)
    assert 43e9 < import_bytes(10_695_954_432, capacity) < 48e9
    assert import_bytes(10_695_954_432, Capacity((NodeGroup("unknown", {"CPU": 8.0}, 1),))) == 0


def test_skypilot_s_sizes_fit_its_machine() -> None:
    """SkyPilot has volumes only on Kubernetes, its own Ray dashboard on port 8266, and runs a task on every node."""
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text(encoding="utf-8"))
    assert not {"volumes", "num_nodes"} & set(task)
    study = load_recipe(task["envs"]["RECIPE"]).replace(sizes=tuple(task["envs"]["SIZES"].split(",")))
    machine = {"CPU": 32.0, "GPU": 8.0, **{ACCELERATOR + kind: 1.0 for kind in task["resources"]["accelerators"]}}
    capacity = Capacity((NodeGroup("machine", machine, 1),))
    for size in with_accelerators(study.sizes, capacity=capacity):
        assert capacity.max_trials(size.resources) >= 1
    assert all(f'--{name.lower()} "${name}"' in task["run"] for name in ("SIZES", "OUTPUT"))
    assert "8266" not in task["run"]
    assert not task["resources"]["autostop"].get("down", False), "the output is on its disk"
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("name", ["aws", "gcp", "kuberay"])
@pytest.mark.parametrize("recipe", [xtreme_r, one_vs_ten_billion])
def test_every_size_of_the_big_recipes_can_be_timed(
    name: str, recipe: Callable[[], Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one GPU that holds the weights of the largest size in every variant."""
    capacity = capacity_of(name)
    monkeypatch.setattr(placement, "cluster_capacity", lambda: capacity)
    study = recipe()
    request = placement_of(study.benchmark)
    assert request["num_gpus"] == 1
    group = next(
        group
        for group in capacity.groups
        if all(group.resources.get(name, 0) >= amount for name, amount in request["resources"].items())
    )
    (kind,) = [name.removeprefix(ACCELERATOR) for name in group.resources if name.startswith(ACCELERATOR)]
    for size in study.sizes:
        for variant in study.benchmark.variants:
            assert serving_fits(architecture_of(study, size), variant, kind), (size.name, variant, kind)


def test_a_size_gets_the_smallest_suitable_gpu_that_a_cloud_offers() -> None:
    """Amazon has A10G and Google L4, for the same recipe: it asks for memory and bf16."""
    kinds = {
        name: [
            size.resources.accelerator_type for size in with_accelerators(xtreme_r().sizes, capacity=capacity_of(name))
        ]
        for name in ("aws", "gcp")
    }
    assert kinds == {"aws": ["A10G", "A100"], "gcp": ["L4", "A100"]}
    google = capacity_of("gcp")
    large = with_accelerators(one_vs_ten_billion().sizes, capacity=google)
    assert {size.resources.accelerator_type for size in large} == {"H100"}
    assert google.max_trials(Resources(gpus=1, accelerator_type="A10G")) == 0, "where a recipe insists"


def test_a_driver_in_a_pod_reads_the_groups_from_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CLUSTER_NAME", "xstilts")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "xstilts")
    requested: list[str] = []

    class Api:
        def __init__(self, namespace: str) -> None:
            assert namespace == "xstilts"

        def get(self, path: str) -> Document:
            requested.append(path)
            return manifest("RayCluster")

    monkeypatch.setattr(node_provider, "KubernetesHttpApiClient", Api)
    monkeypatch.setattr(capacity_module, "_monitor_config", lambda address: None)
    monkeypatch.setattr("ray.get_runtime_context", lambda: type("Context", (), {"gcs_address": "10.0.0.1:6379"}))
    capacity = capacity_module.cluster_capacity()
    assert requested == ["rayclusters/xstilts"]
    assert capacity == capacity_of_config(kuberay_config())
    assert isinstance(capacity, Capacity)
    assert capacity.autoscales
    monkeypatch.setattr(Api, "get", lambda self, path: 1 / 0)
    with pytest.raises(CannotRun, match="enableInTreeAutoscaling"):
        capacity_module.cluster_capacity()
