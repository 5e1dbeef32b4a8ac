"""The files under clusters/ against the schemas of Ray, the clouds and Kubernetes; each check catches a planted mistake."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import botocore.session
import jsonschema
import kubernetes_validate
import pytest
from botocore.validate import ParamValidator
from google.cloud import compute_v1
from google.protobuf.json_format import ParseError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.clusters.documents import Document, description, manifest, manifests, pod_templates
from tests.support.kuberay_schema import RAY_CLUSTER_SPEC, RAY_JOB_SPEC

KUBERNETES = "1.34"


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
