"""The files under clusters/: checked against the schemas of Ray, the clouds and Kubernetes; and which sizes fit on them."""

from __future__ import annotations

import copy
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
from study.spec import Study
from tests.support.commands import ROOT
from tests.support.kuberay_schema import RAY_CLUSTER_SPEC, RAY_JOB_SPEC
from trainables.models import published_encoder
from trainables.resources import ACCELERATOR, Resources

CLUSTERS = ROOT / "clusters"
KUBERNETES = "1.34"
Document = dict[str, Any]


def description(name: str) -> Document:
    """The cluster description that `ray up` reads."""
    return dict(yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text(encoding="utf-8")))


def manifests() -> list[Document]:
    files = sorted(path for path in (CLUSTERS / "kuberay").glob("*.yaml") if path.name != "kustomization.yaml")
    return [document for path in files for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def manifest(kind: str, name: str | None = None) -> Document:
    (match,) = [
        document
        for document in manifests()
        if document["kind"] == kind and name in (None, document["metadata"].get("name"))
    ]
    return match


# Checks. Each must catch a planted mistake.


def check_launcher(config: Document) -> None:
    """Ray's own validation of a cluster description."""
    validate_config(prepare_config(copy.deepcopy(config)))


def check_ec2(config: Document) -> None:
    """Every node's fields against EC2's RunInstances."""
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, group in config["available_node_types"].items():
        request = {**group["node_config"], "MinCount": 1, "MaxCount": 1}
        request["SubnetId"] = request.pop("SubnetIds")[0]  # the plural is Ray's: it picks one
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def check_gce(config: Document) -> None:
    """Every node's fields against Compute Engine's instance resource."""
    for group in config["available_node_types"].values():
        compute_v1.Instance.from_json(json.dumps(group["node_config"]), ignore_unknown_fields=False)


def check_kubernetes(documents: list[Document]) -> None:
    """Ray's resources against KubeRay's fields; pods and all other documents against Kubernetes' own schema."""
    for document in documents:
        if document["kind"] not in ("RayCluster", "RayJob"):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
            continue
        assert document["apiVersion"] == "ray.io/v1"
        jsonschema.validate(document["spec"], RAY_CLUSTER_SPEC if document["kind"] == "RayCluster" else RAY_JOB_SPEC)
        for template in pod_templates(document):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pod_templates(document: Document) -> Iterator[Document]:
    spec = document["spec"]
    if document["kind"] == "Deployment":
        yield spec["template"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if document["kind"] == "RayCluster" else []
    yield from (group["template"] for group in groups)
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_accepts_the_description(name: str) -> None:
    check_launcher(description(name))


def test_ec2_and_compute_engine_know_every_field() -> None:
    check_ec2(description("aws"))
    check_gce(description("gcp"))


def test_kubernetes_and_kuberay_know_every_field() -> None:
    check_kubernetes(manifests())


def _misspell(document: Document, path: str) -> Document:
    """The document with one letter missing in the last key of the path."""
    misspelt = copy.deepcopy(document)
    *parents, last = path.split("/")
    parent: Any = misspelt
    for key in parents:
        parent = parent[int(key) if key.isdigit() else key]
    parent[last[:-1]] = parent.pop(last)
    return misspelt


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
        check(_misspell(description(name), path))


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


# Properties that the files must have.


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_cluster_is_private_and_requires_a_token(name: str) -> None:
    config = prepare_config(description(name))
    assert config["provider"]["use_internal_ips"] is True
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    assert any("chmod 600" in command for command in config["setup_commands"])
    starts = [
        command
        for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    machines = [group["node_config"] for group in config["available_node_types"].values()]
    if name == "aws":
        assert all("SecurityGroupIds" in machine for machine in machines), "Ray's own group opens port 22 to the world"
        assert all(machine["MetadataOptions"]["HttpTokens"] == "required" for machine in machines)
    else:
        interfaces = [interface for machine in machines for interface in machine["networkInterfaces"]]
        assert not any("accessConfigs" in interface for interface in interfaces)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_heads_and_benchmarks_are_on_demand_and_workers_scale_from_zero(name: str) -> None:
    config = description(name)
    head = config["head_node_type"]
    assert config["available_node_types"][head]["resources"]["CPU"] == 0, "the head runs no trials"
    assert config["idle_timeout_minutes"] <= 10
    for name_of_group, group in config["available_node_types"].items():
        spot = "InstanceMarketOptions" in group["node_config"] or (
            group["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
        )
        assert spot == name_of_group.startswith("train-"), name_of_group
        assert name_of_group == head or group["min_workers"] == 0
        assert ("benchmark" in group["resources"]) == name_of_group.startswith("benchmark-")


def test_google_s_nodes_have_accounts_for_the_registry_and_disks_that_their_machines_support() -> None:
    """Ray gives a head without an account its own one, which may not read the registry; a node's own fields win."""
    config = description("gcp")
    zone = config["provider"]["availability_zone"]
    for name, group in config["available_node_types"].items():
        (account,) = group["node_config"]["serviceAccounts"]
        owner = "head" if name == config["head_node_type"] else "worker"
        assert account["email"].startswith(f"xstilts-{owner}@"), name
        (disk,) = group["node_config"]["disks"]
        assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced", name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_gpu_node_that_torch_cannot_use_fails_its_set_up(name: str) -> None:
    """A group's commands replace the common ones, so they must include them."""
    config = description(name)
    groups = [group for group in config["available_node_types"].values() if "GPU" in group["resources"]]
    assert len(groups) == 5
    for group in groups:
        assert group["worker_setup_commands"][:-1] == config["setup_commands"]
    (check,) = {group["worker_setup_commands"][-1] for group in groups}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    failed = subprocess.run(["bash", "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "cannot use a GPU here: the machine needs NVIDIA driver 580 or newer" in failed.stderr


def test_google_s_image_has_a_driver_for_torch_s_cuda() -> None:
    """CUDA 13 needs 580 or newer: NVIDIA's release notes for CUDA 13.0."""
    for group in description("gcp")["available_node_types"].values():
        (disk,) = group["node_config"]["disks"]
        (driver,) = re.findall(r"-nvidia-(\d+)$", disk["initializeParams"]["sourceImage"])
        assert int(driver) >= 580


def test_every_command_that_runs_xtreme_r_names_the_folder_of_files_that_are_not_on_the_hub() -> None:
    commands = [manifest("RayJob")["spec"]["entrypoint"]]
    shown: dict[str, list[str]] = {}
    for path in (ROOT / "README.md", CLUSTERS / "README.md", *(ROOT / "docs").glob("*.md")):
        lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        shown[path.parent.name] = shown.get(path.parent.name, []) + [
            line for line in lines if re.search(r"python -m study (run|submit) xtreme_r\b", line)
        ]
    assert len(shown["clusters"]) == 2
    assert shown["docs"]
    commands += [line for lines in shown.values() for line in lines]
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text(encoding="utf-8"))
    assert task["envs"]["RECIPE"] == "xtreme_r"
    assert "/shared/data" in task["file_mounts"]
    (on_one_machine,) = [line for line in task["run"].splitlines() if "local.sh submit" in line]
    commands.append(on_one_machine)
    for command in commands:
        assert "--data-root /shared/data" in command


def test_ray_s_default_set_up_is_replaced() -> None:
    """It would install a nightly Ray over the image's."""
    for name in ("aws", "gcp"):
        config = prepare_config(description(name))
        commands = [command for key, value in config.items() if key.endswith("_commands") for command in value]
        assert commands
        assert not any("pip install" in command or "0.0.0.0" in command for command in commands)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_machine_installs_nfs_before_it_mounts(name: str) -> None:
    """The host mounts, so the image's packages do not help."""
    commands = description(name)["initialization_commands"]
    (install,) = [
        index for index, command in enumerate(commands) if "install -y" in command and command.endswith("nfs-common)")
    ]
    (mount,) = [index for index, command in enumerate(commands) if "mount -t nfs4" in command]
    assert install < mount
    assert commands[install].startswith("[ -x /sbin/mount.nfs4 ] ||"), "also where /usr/sbin is not in PATH"
    for command in commands:
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0


def test_a_failed_install_fails_the_build_of_the_image() -> None:
    steps = re.sub(r"\\\n", "", (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    installs = [step for step in steps if step.startswith("RUN") and "pip install" in step]
    assert len(installs) == 2
    assert not [step for step in installs if "||" in step], "the build would continue after a failed install"


def test_kuberay_is_private_and_requires_a_token() -> None:
    cluster = manifest("RayCluster")["spec"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] == group["replicas"] == 0 for group in cluster["workerGroupSpecs"])
    services = [document for document in manifests() if document["kind"] == "Service"]
    assert {service["spec"].get("type", "ClusterIP") for service in services} == {"ClusterIP"}
    deny = manifest("NetworkPolicy", "deny-ingress")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for template in pod_templates(manifest("RayCluster")):
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}} in template["spec"]["volumes"]
    arguments = manifest("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]["args"]
    hosts = arguments[arguments.index("--allowed-hosts") + 1].split(",")
    assert "mlflow:5000" in hosts, "the name in the job's tracking URI"
    assert "http://mlflow:5000" in manifest("RayJob")["spec"]["entrypoint"]
    assert "*" not in hosts


def test_a_gpu_group_selects_its_pool_by_a_label_that_the_pool_declares() -> None:
    """Of a pool without nodes the cluster autoscaler knows only declared labels; otherwise it leaves the pool at zero."""
    readme = (CLUSTERS / "README.md").read_text(encoding="utf-8")
    groups = manifest("RayCluster")["spec"]["workerGroupSpecs"]
    gpu_groups = [group for group in groups if "accelerator_type" in group["rayStartParams"].get("resources", "")]
    assert [group["groupName"] for group in gpu_groups] == [
        "train-a10g",
        "train-a100",
        "train-h100",
        "benchmark-a10g",
        "benchmark-h100",
    ]
    for group in gpu_groups:
        pod = group["template"]["spec"]
        assert pod["nodeSelector"] == {"xstilts/pool": group["groupName"]}
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        assert ("affinity" in pod) == group["groupName"].startswith("benchmark-"), "never on a spot machine"
    for text in ("`xstilts/pool=GROUP`", "node-template/label/xstilts/pool: train-a100", "--node-labels"):
        assert text in readme


def test_no_pod_runs_as_root_and_every_user_is_a_number() -> None:
    """With `runAsNonRoot` and an image whose user is a name, the kubelet refuses to start the container."""
    templates = [template for document in manifests() if "spec" in document for template in pod_templates(document)]
    assert len(templates) == 1 + 6 + 1 + 1, "the head, six groups, MLflow, the submitter"
    users = re.findall(r"^USER (.*)$", (CLUSTERS / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for template in templates:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert str(pod["securityContext"]["runAsUser"]) == users[-1] == "1000", "`ray` in Ray's image"
        contexts = [container["securityContext"] for container in pod["containers"]]
        assert all(context["allowPrivilegeEscalation"] is False for context in contexts)
        assert all(context["capabilities"] == {"drop": ["ALL"]} for context in contexts)


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


# Which sizes fit.


def kuberay_config() -> Document:
    """What KubeRay's autoscaler derives from the RayCluster."""
    return dict(autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest("RayCluster")))


@pytest.mark.parametrize("name", ["aws", "kuberay"])
@pytest.mark.parametrize("recipe", [xtreme_r, one_vs_ten_billion])
def test_every_size_of_the_big_recipes_fits(name: str, recipe: Callable[[], Any]) -> None:
    """So does the import of a published encoder."""
    capacity = capacity_of_config(kuberay_config() if name == "kuberay" else description(name))
    for size in with_accelerators(recipe().sizes, capacity=capacity):
        assert capacity.max_trials(size.resources) >= 1, size.name
    assert capacity.max_trials(Resources()) >= 1


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
    capacity = capacity_of_config(kuberay_config() if name == "kuberay" else description(name))
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
            size.resources.accelerator_type
            for size in with_accelerators(xtreme_r().sizes, capacity=capacity_of_config(description(name)))
        ]
        for name in ("aws", "gcp")
    }
    assert kinds == {"aws": ["A10G", "A100"], "gcp": ["L4", "A100"]}
    google = capacity_of_config(description("gcp"))
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


def test_the_working_directory_of_a_job_is_small(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    settings = yaml.safe_load((CLUSTERS / "runtime_env.yaml").read_text(encoding="utf-8"))
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=settings["excludes"])
    shipped = sum(path.stat().st_size for path in published_encoder.SHIPPED.rglob("*") if path.is_file())
    assert shipped < 12e6
    # Even with a virtual environment, runs and git history next to the code.
    assert package.stat().st_size < shipped + 3 * 2**20
