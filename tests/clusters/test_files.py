"""The files under clusters/: held against what Ray, the clouds and Kubernetes know of their fields; and what fits on them."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import kubernetes_validate
import pytest
import yaml
from botocore.validate import ParamValidator
from google.cloud import compute_v1
from google.protobuf.json_format import ParseError
from ray.autoscaler._private.kuberay import autoscaling_config, node_provider
from ray.autoscaler._private.util import prepare_config, validate_config

from study.benchmarking import placement as bench_place
from study.benchmarking.placement import place_of
from study.cluster import capacity as capacities
from study.cluster.capacity import ACCELERATOR, Capacity, capacity_of_config, capacity_of_nodes
from study.cluster.connection import CannotRun, capacity
from study.planning.estimate import architecture, serves
from study.recipes import load_recipe
from study.recipes.one_vs_ten_billion import one_vs_ten_billion
from study.recipes.xtreme_r import xtreme_r
from study.spec import Size, Study
from tests.conftest import ROOT
from tests.support import recipes
from tests.support.kuberay_schema import RAY_CLUSTER_SPEC, RAY_JOB_SPEC
from trainables.resources import Resources

CLUSTERS = ROOT / "clusters"
KUBERNETES = "1.34"
Document = dict[str, Any]


def launched(name: str) -> Document:
    """The description that `ray up` would start a cluster from."""
    return dict(yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text(encoding="utf-8")))


def manifests() -> list[Document]:
    files = sorted(path for path in (CLUSTERS / "kuberay").glob("*.yaml") if path.name != "kustomization.yaml")
    return [one for path in files for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def manifest(kind: str, name: str | None = None) -> Document:
    (found,) = [one for one in manifests() if one["kind"] == kind and name in (None, one["metadata"].get("name"))]
    return found


# --- checks, each of which a planted mistake must fail


def check_launcher(config: Document) -> None:
    """Ray's own check of a cluster's description."""
    validate_config(prepare_config(copy.deepcopy(config)))


def check_ec2(config: Document) -> None:
    """Every node's fields against EC2's RunInstances."""
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, group in config["available_node_types"].items():
        asked = {**group["node_config"], "MinCount": 1, "MaxCount": 1}
        asked["SubnetId"] = asked.pop("SubnetIds")[0]  # Ray's own plural: it picks one
        report = ParamValidator().validate(asked, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def check_gce(config: Document) -> None:
    """Every node's fields against Compute Engine's instance resource."""
    for group in config["available_node_types"].values():
        compute_v1.Instance.from_json(json.dumps(group["node_config"]), ignore_unknown_fields=False)


def check_kubernetes(documents: list[Document]) -> None:
    """Ray's resources against KubeRay's fields, and pods and all the rest against Kubernetes' own."""
    for one in documents:
        if one["kind"] not in ("RayCluster", "RayJob"):
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
            continue
        assert one["apiVersion"] == "ray.io/v1"
        jsonschema.validate(one["spec"], RAY_CLUSTER_SPEC if one["kind"] == "RayCluster" else RAY_JOB_SPEC)
        for template in pod_templates(one):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pod_templates(one: Document) -> Iterator[Document]:
    spec = one["spec"]
    if one["kind"] == "Deployment":
        yield spec["template"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if one["kind"] == "RayCluster" else []
    yield from (group["template"] for group in groups)
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_accepts_the_description(name: str) -> None:
    check_launcher(launched(name))


def test_ec2_and_compute_engine_know_every_field() -> None:
    check_ec2(launched("aws"))
    check_gce(launched("gcp"))


def test_kubernetes_and_kuberay_know_every_field() -> None:
    check_kubernetes(manifests())


def _misspell(document: Document, path: str) -> Document:
    """The document with a letter left out of the name at the end of the path."""
    changed = copy.deepcopy(document)
    *way, last = path.split("/")
    place: Any = changed
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    place[last[:-1]] = place.pop(last)
    return changed


@pytest.mark.parametrize(
    ("name", "check", "path"),
    [
        ("aws", check_launcher, "idle_timeout_minutes"),
        ("aws", check_launcher, "available_node_types/train-a100/max_workers"),
        ("gcp", check_launcher, "auth/ssh_proxy_command"),
        ("aws", check_ec2, "available_node_types/head/node_config/InstanceType"),
        (
            "aws",
            check_ec2,
            "available_node_types/train-a100/node_config/InstanceMarketOptions/SpotOptions/SpotInstanceType",
        ),
        ("aws", check_ec2, "available_node_types/head/node_config/BlockDeviceMappings/0/Ebs/Encrypted"),
        ("gcp", check_gce, "available_node_types/head/node_config/machineType"),
        ("gcp", check_gce, "available_node_types/train-a100/node_config/scheduling/provisioningModel"),
        ("gcp", check_gce, "available_node_types/head/node_config/disks/0/initializeParams/sourceImage"),
    ],
)
def test_a_typo_in_a_description_is_caught(name: str, check: Callable[[Document], None], path: str) -> None:
    with pytest.raises((AssertionError, ParseError, jsonschema.ValidationError, ValueError, KeyError)):
        check(_misspell(launched(name), path))


@pytest.mark.parametrize(
    ("kind", "name", "path"),
    [
        ("RayCluster", "xstilts", "spec/authOptions"),
        ("RayCluster", "xstilts", "spec/autoscalerOptions/idleTimeoutSeconds"),
        ("RayCluster", "xstilts", "spec/workerGroupSpecs/1/minReplicas"),
        ("RayCluster", "xstilts", "spec/workerGroupSpecs/1/template/spec/containers/0/resources/limits"),
        (
            "RayCluster",
            "xstilts",
            "spec/headGroupSpec/template/spec/containers/0/securityContext/allowPrivilegeEscalation",
        ),
        ("RayJob", None, "spec/clusterSelector"),
        ("RayJob", None, "spec/submitterPodTemplate/spec/restartPolicy"),
        ("Deployment", "mlflow", "spec/template/spec/automountServiceAccountToken"),
        ("NetworkPolicy", "mlflow", "spec/ingress/0/from"),
        ("PersistentVolumeClaim", "shared", "spec/storageClassName"),
    ],
)
def test_a_typo_in_a_manifest_is_caught(kind: str, name: str | None, path: str) -> None:
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_kubernetes([_misspell(manifest(kind, name), path)])


# --- what they must be like


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_cluster_is_private_and_wants_a_token(name: str) -> None:
    config = prepare_config(launched(name))
    assert config["provider"]["use_internal_ips"] is True
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    assert any("chmod 600" in command for command in config["setup_commands"])
    starts = [
        one for one in config["head_start_ray_commands"] + config["worker_start_ray_commands"] if "ray start" in one
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    machines = [group["node_config"] for group in config["available_node_types"].values()]
    if name == "aws":
        assert all("SecurityGroupIds" in one for one in machines), "Ray's own group lets the world reach port 22"
        assert all(one["MetadataOptions"]["HttpTokens"] == "required" for one in machines)
    else:
        assert not any("accessConfigs" in interface for one in machines for interface in one["networkInterfaces"])


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_heads_and_benchmarks_are_on_demand_and_workers_start_from_none(name: str) -> None:
    config = launched(name)
    head = config["head_node_type"]
    assert config["available_node_types"][head]["resources"]["CPU"] == 0, "the head takes no trials"
    assert config["idle_timeout_minutes"] <= 10
    for group, one in config["available_node_types"].items():
        spot = "InstanceMarketOptions" in one["node_config"] or (
            one["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
        )
        assert spot == group.startswith("train-"), group
        assert group == head or one["min_workers"] == 0
        assert ("benchmark" in one["resources"]) == group.startswith("benchmark-")


def test_google_s_nodes_have_accounts_that_read_the_registry_and_disks_that_their_machines_take() -> None:
    """Ray puts its own account, which may not read the registry, where a head names none; a node's own fields win."""
    config = launched("gcp")
    zone = config["provider"]["availability_zone"]
    for name, group in config["available_node_types"].items():
        (account,) = group["node_config"]["serviceAccounts"]
        owner = "head" if name == config["head_node_type"] else "worker"
        assert account["email"].startswith(f"xstilts-{owner}@"), name
        (disk,) = group["node_config"]["disks"]
        assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced", name


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_gpu_node_that_torch_cannot_use_is_given_up_at_its_set_up(name: str) -> None:
    """A group's own commands replace those of all nodes, so that theirs must be among them."""
    config = launched(name)
    groups = {group: one for group, one in config["available_node_types"].items() if "GPU" in one["resources"]}
    assert len(groups) == 5
    for one in groups.values():
        assert one["worker_setup_commands"][:-1] == config["setup_commands"]
    (check,) = {one["worker_setup_commands"][-1] for one in groups.values()}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    given_up = subprocess.run(["bash", "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert given_up.returncode == 1
    assert "cannot use a GPU here: the machine wants NVIDIA driver 580 or newer" in given_up.stderr


def test_google_s_image_has_a_driver_for_torch_s_cuda() -> None:
    """CUDA 13 wants 580 or newer; NVIDIA's release notes for CUDA 13.0."""
    for group in launched("gcp")["available_node_types"].values():
        (disk,) = group["node_config"]["disks"]
        (driver,) = re.findall(r"-nvidia-(\d+)$", disk["initializeParams"]["sourceImage"])
        assert int(driver) >= 580


def test_every_command_that_runs_xtreme_r_says_where_the_files_are_that_are_not_on_the_hub() -> None:
    commands = [manifest("RayJob")["spec"]["entrypoint"]]
    for path in (ROOT / "README.md", CLUSTERS / "README.md"):
        lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        found = [line for line in lines if re.search(r"python -m study (run|submit) xtreme_r\b", line)]
        assert found, path
        commands += found
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text(encoding="utf-8"))
    assert task["envs"]["RECIPE"] == "xtreme_r"
    assert "/shared/data" in task["file_mounts"]
    commands += [line for line in task["run"].splitlines() if "local.sh submit" in line]
    assert len(commands) == 1 + 1 + 2 + 1
    for command in commands:
        assert "--data-root /shared/data" in command


def test_nothing_of_ray_s_default_set_up_is_left() -> None:
    """It would install a nightly Ray over the image's."""
    for name in ("aws", "gcp"):
        config = prepare_config(launched(name))
        commands = [one for key, value in config.items() if key.endswith("_commands") for one in value]
        assert commands
        assert not any("pip install" in one or "0.0.0.0" in one for one in commands)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_machine_itself_can_mount_nfs_before_it_does(name: str) -> None:
    """The mount is the host's: what the image has installed does not count."""
    commands = launched(name)["initialization_commands"]
    (install,) = [index for index, one in enumerate(commands) if "install -y" in one and one.endswith("nfs-common)")]
    (mount,) = [index for index, one in enumerate(commands) if "mount -t nfs4" in one]
    assert install < mount
    assert commands[install].startswith("[ -x /sbin/mount.nfs4 ] ||"), "also where /usr/sbin is not on the path"
    for command in commands:
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0


def test_an_image_without_the_study_is_not_built() -> None:
    steps = re.sub(r"\\\n", "", (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    installs = [one for one in steps if one.startswith("RUN") and "pip install" in one]
    assert len(installs) == 2
    assert not [one for one in installs if "||" in one], "it would go on after a failed install"


def test_kuberay_is_private_and_wants_a_token() -> None:
    cluster = manifest("RayCluster")["spec"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] == group["replicas"] == 0 for group in cluster["workerGroupSpecs"])
    assert {one["spec"].get("type", "ClusterIP") for one in manifests() if one["kind"] == "Service"} == {"ClusterIP"}
    deny = manifest("NetworkPolicy", "deny-ingress")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for template in pod_templates(manifest("RayCluster")):
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}} in template["spec"]["volumes"]
    served = manifest("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]
    hosts = served["args"][served["args"].index("--allowed-hosts") + 1].split(",")
    assert "mlflow:5000" in hosts, "the name in the job's tracking URI"
    assert "http://mlflow:5000" in manifest("RayJob")["spec"]["entrypoint"]
    assert "*" not in hosts


def test_a_group_of_gpus_selects_its_pool_by_a_label_that_the_pool_declares() -> None:
    """The cluster autoscaler knows no other label of a pool without nodes, and leaves such a pool at zero."""
    readme = (CLUSTERS / "README.md").read_text(encoding="utf-8")
    groups = manifest("RayCluster")["spec"]["workerGroupSpecs"]
    with_gpus = [one for one in groups if "accelerator_type" in one["rayStartParams"].get("resources", "")]
    assert [one["groupName"] for one in with_gpus] == [
        "train-a10g",
        "train-a100",
        "train-h100",
        "benchmark-a10g",
        "benchmark-h100",
    ]
    for one in with_gpus:
        pod = one["template"]["spec"]
        assert pod["nodeSelector"] == {"xstilts/pool": one["groupName"]}
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        assert ("affinity" in pod) == one["groupName"].startswith("benchmark-"), "never on a spot machine"
    for named in ("`xstilts/pool=GROUP`", "node-template/label/xstilts/pool: train-a100", "--node-labels"):
        assert named in readme


def test_no_pod_runs_as_root_and_every_user_is_a_number() -> None:
    """`runAsNonRoot` over an image whose user is a name: the kubelet cannot tell and refuses to start the container."""
    templates = [template for one in manifests() if "spec" in one for template in pod_templates(one)]
    assert len(templates) == 1 + 6 + 1 + 1, "the head, six groups, MLflow, the submitter"
    users = re.findall(r"^USER (.*)$", (CLUSTERS / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for template in templates:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert str(pod["securityContext"]["runAsUser"]) == users[-1] == "1000", "`ray` in Ray's image"
        assert all(one["securityContext"]["allowPrivilegeEscalation"] is False for one in pod["containers"])
        assert all(one["securityContext"]["capabilities"] == {"drop": ["ALL"]} for one in pod["containers"])


def test_no_file_holds_a_secret() -> None:
    tracked = subprocess.run(["git", "ls-files", "clusters"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / line for line in tracked.stdout.split()]
    assert len(files) > 8
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|-----BEGIN|kind: Secret|[0-9a-f]{40,}", text), (
            path
        )
        if path.suffix == ".sh":
            assert path.stat().st_mode & stat.S_IXUSR
            assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_one_version_of_ray_everywhere() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert manifest("RayCluster")["spec"]["rayVersion"] == pinned
    assert f"rayproject/ray:{pinned}-" in (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")


# --- what fits


def kuberay_config() -> Document:
    """As KubeRay's autoscaler makes it."""
    return dict(autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest("RayCluster")))


@pytest.mark.parametrize("name", ["aws", "kuberay"])
@pytest.mark.parametrize("recipe", [xtreme_r, one_vs_ten_billion])
def test_every_size_of_the_big_recipes_fits(name: str, recipe: Callable[[], Any]) -> None:
    """Also what brings a published encoder into the store, and the head is not counted for any."""
    held = capacity_of_config(kuberay_config() if name == "kuberay" else launched(name))
    for size in recipe().sizes:
        assert held.trials(size.resources) >= 1, size.name
    assert held.trials(Resources()) >= 1


def test_the_sizes_of_the_one_machine_s_study_fit_its_gpus() -> None:
    """SkyPilot knows volumes on Kubernetes alone, keeps its own Ray's dashboard at 8266, and runs a task on every node."""
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text(encoding="utf-8"))
    assert not {"volumes", "num_nodes"} & set(task)
    study = load_recipe(task["envs"]["RECIPE"]).replace(sizes=tuple(task["envs"]["SIZES"].split(",")))
    assert {size.resources.accelerator_type for size in study.sizes} <= set(task["resources"]["accelerators"])
    assert all(f'--{name.lower()} "${name}"' in task["run"] for name in ("SIZES", "OUTPUT"))
    assert "8266" not in task["run"]
    assert not task["resources"]["autostop"].get("down", False), "the output lies on its disk"
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("name", ["aws", "gcp", "kuberay"])
@pytest.mark.parametrize("recipe", [xtreme_r, one_vs_ten_billion])
def test_every_size_of_the_big_recipes_can_be_timed(
    name: str, recipe: Callable[[], Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one card that holds the weights of the largest in every variant."""
    held = capacity_of_config(kuberay_config() if name == "kuberay" else launched(name))
    monkeypatch.setattr(bench_place, "known_capacity", lambda: held)
    study = recipe()
    place = place_of(study.benchmark)
    assert place["num_gpus"] == 1
    group = next(
        one
        for one in held.groups
        if all(one.resources.get(what, 0) >= amount for what, amount in place["resources"].items())
    )
    (kind,) = [what.removeprefix(ACCELERATOR) for what in group.resources if what.startswith(ACCELERATOR)]
    for size in study.sizes:
        for variant in study.benchmark.variants:
            assert serves(architecture(study, size), variant, kind), (size.name, variant, kind)


def test_google_has_no_a10g() -> None:
    """As the description says; the rest of what the big recipes ask for is there."""
    held = capacity_of_config(launched("gcp"))
    assert held.trials(Resources(gpus=1, accelerator_type="A10G")) == 0
    assert all(held.trials(size.resources) for size in one_vs_ten_billion().sizes)
    # What README.md advises: the size that fits, or the other one with a GPU that Google has.
    assert all(held.trials(size.resources) for size in xtreme_r().replace(sizes=("xlm-r-large",)).sizes)
    (base,) = xtreme_r().replace(sizes=("xlm-r-base",)).sizes
    assert held.trials(dataclasses.replace(base.resources, accelerator_type="L4")) >= 1


GROUPS = {
    "head_node_type": "head",
    "max_workers": 3,
    "available_node_types": {
        "head": {"resources": {"CPU": 4}, "node_config": {}},
        "small": {"resources": {"CPU": 8, "GPU": 2, "accelerator_type:T4": 1}, "node_config": {}, "max_workers": 2},
        "large": {"resources": {"CPU": 64, "GPU": 8, "accelerator_type:A100": 1}, "node_config": {}, "max_workers": 2},
    },
}


@pytest.mark.parametrize(
    ("resources", "trials"),
    [
        (
            Resources(workers=1, cpus=4),
            1 + 16 + 16 + 2,
        ),  # two of the large, one of the small (three in all), and the head
        (Resources(workers=2, cpus=3, gpus=1), (8 + 8 + 2) // 2),
        (Resources(workers=1, cpus=40, gpus=1), 2),  # one worker a node: it is never cut over two
        (Resources(workers=4, cpus=1, gpus=1, accelerator_type="T4"), 1),
        (Resources(workers=5, cpus=1, gpus=1, accelerator_type="T4"), 0),
        (Resources(workers=1, cpus=1, gpus=1, accelerator_type="H100"), 0),
        (Resources(workers=1, cpus=65), 0),
    ],
)
def test_capacity_counts_whole_workers_on_nodes_that_can_still_come(resources: Resources, trials: int) -> None:
    assert capacity_of_config(GROUPS).trials(resources) == trials


def test_nodes_that_are_there_are_all_there_is_without_an_autoscaler() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0, "node:1": 1.0, "node:__internal_head__": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "node:2": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    held = capacity_of_nodes(nodes)
    assert held.trials(Resources(cpus=2)) == 3
    assert held.trials(Resources(cpus=5)) == 0
    assert not held.autoscales


def test_what_can_never_be_held_is_refused_with_size_request_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.cluster.connection.held_at_most", lambda: capacity_of_config(GROUPS))
    encoder = recipes.tiny().sizes[0].encoder
    sizes = [
        Size("fits", encoder, Resources(workers=2, gpus=1)),
        Size("too-many", encoder, Resources(workers=17, cpus=8, gpus=1, accelerator_type="A100", zero_stage=2)),
        Size("unknown", encoder, Resources(gpus=1, accelerator_type="B200")),
    ]
    # Three nodes beside the head: two of the large and one of the small, or as many of a kind of card as there can be.
    assert capacity(sizes[:1]) == {"CPU": 4 + 64 + 64 + 8, "GPU": 18, "GPU:T4": 4, "GPU:A100": 16}
    with pytest.raises(CannotRun) as refused:
        capacity(sizes)
    first, second = str(refused.value).split("\nerror: ")
    assert "size too-many needs 17 x (8 CPU, 1 GPU, A100) for one trial, and no node group can ever hold it" in first
    assert "size unknown needs 1 x (1 CPU, 1 GPU, B200)" in second
    for group in ("head, 1 of 4 CPU", "small, 2 of 8 CPU, 2 GPU", "large, 2 of 64 CPU, 8 GPU", "at most 3 nodes"):
        assert group in first


def test_a_driver_in_a_pod_reads_the_groups_from_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CLUSTER_NAME", "xstilts")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "xstilts")
    asked: list[str] = []

    class Api:
        def __init__(self, namespace: str) -> None:
            assert namespace == "xstilts"

        def get(self, path: str) -> Document:
            asked.append(path)
            return manifest("RayCluster")

    monkeypatch.setattr(node_provider, "KubernetesHttpApiClient", Api)
    monkeypatch.setattr(capacities, "_monitors_file", lambda address: None)
    monkeypatch.setattr("ray.get_runtime_context", lambda: type("Context", (), {"gcs_address": "10.0.0.1:6379"}))
    held = capacities.held_at_most()
    assert asked == ["rayclusters/xstilts"]
    assert held == capacity_of_config(kuberay_config())
    assert isinstance(held, Capacity)
    assert held.autoscales
    monkeypatch.setattr(Api, "get", lambda self, path: 1 / 0)
    with pytest.raises(capacities.GroupsUnknown, match="enableInTreeAutoscaling"):
        capacities.held_at_most()


def test_fewer_workers_are_halves_that_keep_the_batch() -> None:
    assert Resources(workers=8, fewest_workers=2).worker_counts == (8, 4, 2)
    assert Resources(workers=6, fewest_workers=2).worker_counts == (6, 3)
    assert Resources(workers=8).worker_counts == (8,)
    with pytest.raises(ValueError, match="fewest_workers 9"):
        Resources(workers=8, fewest_workers=9)


def test_the_working_directory_of_a_job_is_small(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    settings = yaml.safe_load((CLUSTERS / "runtime_env.yaml").read_text(encoding="utf-8"))
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=settings["excludes"])
    assert package.stat().st_size < 3 * 2**20, "also with an environment, runs and a history beside the code"
