"""Schema of KubeRay 1.7's RayCluster and RayJob (`ray.io/v1`): field names, types, required fields, and enumerations.

Transcribed from the custom resource definitions of KubeRay 1.7.0 (ray-operator/config/crd/bases), as far as this project's
manifests could use them. Pods and containers inside follow Kubernetes' own schema and are checked against that.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
YES_NO: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
ANYS: Schema = {"type": "array", "items": ANY}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def fields(required: tuple[str, ...] = (), /, **known: Schema) -> Schema:
    """An object of these fields and no others."""
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


_POLICY = fields(ingressRules=ANYS, egressRules=ANYS)

RAY_CLUSTER_SPEC = fields(
    ("headGroupSpec",),
    authOptions=fields(mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=YES_NO),
    autoscalerOptions=fields(
        args={"type": "array"},
        command={"type": "array"},
        env=ANYS,
        envFrom=ANYS,
        idleTimeoutSeconds=WHOLE,
        image=TEXT,
        imagePullPolicy=TEXT,
        resources=ANY,
        securityContext=ANY,
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        version=one_of("v1", "v2"),
        volumeMounts=ANYS,
    ),
    enableInTreeAutoscaling=YES_NO,
    gcsFaultToleranceOptions=ANY,
    headGroupSpec=fields(
        ("template",),
        enableIngress=YES_NO,
        headService=ANY,
        ingressOptions=ANY,
        labels=TEXTS,
        rayStartParams=TEXTS,
        resources=ANY,
        serviceType=TEXT,
        template=ANY,
    ),
    headServiceAnnotations=TEXTS,
    managedBy=TEXT,
    networkPolicy=fields(
        mode=one_of("DenyAll", "DenyAllIngress", "DenyAllEgress"), head=_POLICY, worker=_POLICY, workerGroups=ANYS
    ),
    rayVersion=TEXT,
    suspend=YES_NO,
    tlsOptions=ANY,
    upgradeStrategy=fields(type=one_of("Recreate", "None")),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            ("groupName", "maxReplicas", "minReplicas", "template"),
            groupName=TEXT,
            idleTimeoutSeconds=WHOLE,
            labels=TEXTS,
            maxReplicas=WHOLE,
            minReplicas=WHOLE,
            numOfHosts=WHOLE,
            priority=WHOLE,
            rayStartParams=TEXTS,
            replicas=WHOLE,
            resources=ANY,
            scaleStrategy=ANY,
            suspend=YES_NO,
            template=ANY,
        ),
    },
)

RAY_JOB_SPEC = fields(
    activeDeadlineSeconds=WHOLE,
    backoffLimit=WHOLE,
    clusterSelector=TEXTS,
    deletionStrategy=ANY,
    entrypoint=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    jobId=TEXT,
    managedBy=TEXT,
    metadata=TEXTS,
    preRunningDeadlineSeconds=WHOLE,
    rayClusterSpec=RAY_CLUSTER_SPEC,
    runtimeEnvYAML=TEXT,
    shutdownAfterJobFinishes=YES_NO,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterConfig=ANY,
    submitterPodTemplate=ANY,
    suspend=YES_NO,
    ttlSecondsAfterFinished=WHOLE,
)
