"""Ray's own autoscaler on this machine: capacity counts the nodes it can still start, and idle nodes are removed.

A whole study on it, which loses a node, is `python -m tests.benchmarks.autoscaling`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tests.support.scaled_cluster import scaled_cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray]

GROUPS = {
    "train-a100": {"resources": {"CPU": 1, "GPU": 1, "accelerator_type:A100": 1}, "max_workers": 2},
    "benchmark": {"resources": {"CPU": 3, "benchmark": 1}, "max_workers": 1},
}
DRIVER = """
import ray
from study.benchmarking.placement import placement_of
from study.cluster.connection import connected
from study.cluster.fit import check_capacity
from study.errors import CannotRun
from study.spec import BenchmarkPlan, Size
from tests.support import recipes
from trainables.resources import Resources

def size(name, **resources):
    return Size(name, recipes.tiny().sizes[0].encoder, Resources(accelerator_type="A100", **resources))

with connected(None):
    print(sum(node["Resources"].get("CPU", 0) for node in ray.nodes()), "cores")
    print(check_capacity([size("two", workers=2, gpus=1)]))
    print(placement_of(BenchmarkPlan()))
    try:
        check_capacity([size("three", workers=3, gpus=1)])
    except CannotRun as error:
        print(error)
    node_type = ray.remote(lambda: __import__("os").environ["RAY_NODE_TYPE_NAME"])
    print(ray.get(node_type.options(num_cpus=1, resources={"accelerator_type:A100": 0.001}).remote()))
"""


def test_a_group_scales_up_from_zero_and_back(tmp_path: Path) -> None:
    with scaled_cluster(tmp_path, GROUPS, idle_s=2.0) as cluster:
        environment = {**cluster.environment, "RAY_ADDRESS": cluster.gcs, "PYTHONPATH": str(ROOT)}
        driver = subprocess.run(
            [sys.executable, "-c", DRIVER], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
        )
        assert driver.returncode == 0, driver.stderr[-3000:]
        cores, totals, benchmark, refused, ran_on = driver.stdout.strip().splitlines()
        assert cores == "0 cores", "no node was up"
        assert totals == "{'CPU': 5.0, 'GPU': 2.0, 'GPU:A100': 2.0}"
        assert benchmark == "{'num_cpus': 3, 'num_gpus': 0, 'resources': {'benchmark': 1.0}}"
        assert "size three needs 3 x (1 CPU, 1 GPU, A100) for one trial, and no node group can ever hold it" in refused
        assert "train-a100, 2 of 1 CPU, 1 GPU" in refused
        assert ran_on == "train-a100"
        cluster.wait_for({"train-a100": 0, "benchmark": 0}, timeout_s=240)
        counts = cluster.counts()
    assert max(nodes.get("train-a100", 0) for _, nodes in counts) == 1, "no more than requested"
    assert max(nodes.get("benchmark", 0) for _, nodes in counts) == 0
