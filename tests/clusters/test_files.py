"""Properties that the files under clusters/ must have: private, free of secrets, scaled from zero, and of one version."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from tests.clusters.documents import CLUSTERS, description, manifest, manifests, pod_templates
from tests.support.commands import ROOT
from trainables.models import published_encoder
from trainables.store.bucket.location import url_of, work_folder


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


def test_ray_s_default_set_up_is_replaced() -> None:
    """It would install a nightly Ray over the image's."""
    for name in ("aws", "gcp"):
        config = prepare_config(description(name))
        commands = [command for key, value in config.items() if key.endswith("_commands") for command in value]
        assert commands
        assert not any("pip install" in command or "0.0.0.0" in command for command in commands)


def test_a_failed_install_fails_the_build_of_the_image() -> None:
    steps = re.sub(r"\\\n", "", (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    installs = [step for step in steps if step.startswith("RUN") and "pip install" in step]
    assert len(installs) == 2
    assert not [step for step in installs if "||" in step], "the build would continue after a failed install"


def test_one_version_of_ray_everywhere() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert manifest("RayCluster")["spec"]["rayVersion"] == pinned
    assert f"rayproject/ray:{pinned}-" in (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_machine_copies_the_data_to_where_its_container_sees_them(name: str) -> None:
    """The container's user also writes there: MLflow's database. Nothing is mounted over the network."""
    cluster = description(name)
    commands = cluster["initialization_commands"]
    (copy,) = [command for command in commands if "/data /shared/data" in command]
    assert "sudo mkdir -p /shared/data && sudo chown 1000:100 /shared" in copy
    assert "--volume /shared:/shared" in cluster["docker"]["run_options"]
    assert not any("mount " in command for command in commands)
    for command in commands:
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0


@pytest.mark.parametrize(("name", "scheme"), [("aws", "s3"), ("gcp", "gs")])
def test_the_output_that_a_description_names_is_a_bucket(name: str, scheme: str) -> None:
    text = (CLUSTERS / f"{name}.yaml").read_text(encoding="utf-8")
    (url,) = set(re.findall(r"--output (\S+?)`", text))
    assert url_of(work_folder(url)) == url
    assert url.startswith(f"{scheme}://")


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


def test_the_working_directory_of_a_job_is_small_and_has_every_file_of_the_packages(tmp_path: Path) -> None:
    """A job imports the packages from there, so a shipped encoder that is not uploaded is nowhere."""
    from ray._private.runtime_env.packaging import create_package

    settings = yaml.safe_load((CLUSTERS / "runtime_env.yaml").read_text(encoding="utf-8"))
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=settings["excludes"])
    shipped = sum(path.stat().st_size for path in published_encoder.SHIPPED.rglob("*") if path.is_file())
    assert shipped < 12e6
    # Even with a virtual environment, runs and git history next to the code. Ray does not compress it.
    assert package.stat().st_size < shipped + 8 * 2**20
    packages = ["analysis", "clusters", "study", "trainables"]
    tracked = subprocess.run(["git", "ls-files", *packages], cwd=ROOT, capture_output=True, text=True, check=True)
    present = [name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    assert len([name for name in present if name.endswith(".safetensors")]) == 3
    with zipfile.ZipFile(package) as uploaded:
        assert set(present) - set(uploaded.namelist()) == set()
