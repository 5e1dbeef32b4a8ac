"""The files under clusters/, parsed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from ray.autoscaler._private.kuberay import autoscaling_config

from tests.support.commands import ROOT

CLUSTERS = ROOT / "clusters"
Document = dict[str, Any]


def description(name: str) -> Document:
    """The cluster description that `ray up` reads."""
    return dict(yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text(encoding="utf-8")))


def manifests() -> list[Document]:
    """Everything that is applied to Kubernetes."""
    files = sorted(path for path in (CLUSTERS / "kuberay").glob("*.yaml") if path.name != "kustomization.yaml")
    return [document for path in files for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def manifest(kind: str, name: str | None = None) -> Document:
    """The only manifest of that kind and, if given, that name."""
    (match,) = [
        document
        for document in manifests()
        if document["kind"] == kind and name in (None, document["metadata"].get("name"))
    ]
    return match


def pod_templates(document: Document) -> Iterator[Document]:
    """Those of a manifest, one for each group of nodes in a RayCluster."""
    spec = document["spec"]
    if document["kind"] == "Deployment":
        yield spec["template"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if document["kind"] == "RayCluster" else []
    yield from (group["template"] for group in groups)
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]


def kuberay_config() -> Document:
    """What KubeRay's autoscaler derives from the RayCluster."""
    return dict(autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest("RayCluster")))
