"""A pod of the head or of a group, as Kubernetes' pod template."""

import zlib
from typing import Any

from cluster.config import DRAIN_VARIABLE, KEEPALIVE, ClaimSection, ClusterConfig, SecretKey
from cluster.pod_config import PodSection, TrainSection
from raytrain.machine import GIB

Manifest = dict[str, Any]
HEAD_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001}


def pod_template(config: ClusterConfig, pod: PodSection, container: str) -> Manifest:
    """Template of a pod whose only container of ours is ``container`` ("ray-head" or "ray-worker")."""
    is_head, claims = container == "ray-head", config.storage.claims
    spec = _pod_spec(config, pod, _container(config, pod, container))
    spec["terminationGracePeriodSeconds"] = config.preemption.stop_s + (0 if is_head else config.preemption.drain_s)
    spec["volumes"] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{pod.shm_gib}Gi"}},
        *({"name": _volume(claim), "persistentVolumeClaim": {"claimName": claim.name, **_mode(claim)}} for claim in claims),
    ]
    return {"spec": spec}


def submitter_template(config: ClusterConfig) -> Manifest:
    """Template of the pod in which K8sJobMode runs `ray job submit`; the operator adds the command and the cluster's token.

    Older operators' own is without the image's pull secrets, and a namespace that admits no root refuses any operator's.
    """
    container = {
        "name": "ray-job-submitter",
        "image": config.image,
        "resources": {"requests": {"cpu": "500m", "memory": "200Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    return {"spec": _pod_spec(config, config.head, container)}


def start_params(pod: PodSection, num_cpus: int, num_gpus: int) -> dict[str, str]:
    """Words of `ray start`, said outright: KubeRay would round what the limits say."""
    return {"num-cpus": str(num_cpus), "num-gpus": str(num_gpus), "object-store-memory": str(pod.object_store_gib * GIB)}


def secret_value(secret: SecretKey) -> Manifest:
    """A value that Kubernetes looks up."""
    return {"valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}


def _pod_spec(config: ClusterConfig, pod: PodSection, container: Manifest) -> Manifest:
    """What any pod of a cluster has: who runs it, where, and how its image is fetched."""
    spec: Manifest = {
        # The operator replaces a pod that has ended; the autoscaler's second version and SidecarMode refuse any other policy.
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": config.user_id,
            "fsGroup": config.user_id,
            # A shared volume of millions of files would be walked for every pod.
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        **_placement(config, pod),
        "containers": [container],
    }
    if config.storage.service_account is not None:
        spec["serviceAccountName"] = config.storage.service_account
    if config.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    return spec


def _container(config: ClusterConfig, pod: PodSection, name: str) -> Manifest:
    resources = {"cpu": str(pod.cpus), "memory": f"{pod.memory_gib}Gi"}
    if isinstance(pod, TrainSection) and pod.gpus:
        resources[pod.gpu_resource] = str(pod.gpus)
    is_head = name == "ray-head"
    env = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # What Ray waits between SIGTERM and its end, telling Train of a preemption; when the head goes there is nobody to tell.
        DRAIN_VARIABLE: "0" if is_head else str(config.preemption.drain_s),
        **KEEPALIVE,
        **config.storage.env,
    }
    container: Manifest = {
        "name": name,
        "image": config.image,
        "resources": {"requests": resources, "limits": dict(resources)},
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *_mounts(config)],
    }
    if config.storage.env_from_secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in config.storage.env_from_secrets]
    if is_head:
        container["ports"] = [{"name": port, "containerPort": number} for port, number in HEAD_PORTS.items()]
    return container


def _placement(config: ClusterConfig, pod: PodSection) -> Manifest:
    """Which nodes: on spot those that say so, on demand none of these."""
    selector, tolerations = dict(pod.node_selector), [*pod.tolerations]
    if isinstance(pod, TrainSection):
        selector |= pod.accelerator
    if pod.spot is not None:
        selector |= pod.spot.labels
        tolerations += pod.spot.tolerations
    placement: Manifest = {"nodeSelector": selector} if selector else {}
    if tolerations:
        placement["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in tolerations]
    if pod.spot is None and config.spot_labels:
        others = [{"key": key, "operator": "NotIn", "values": values} for key, values in config.spot_labels.items()]
        terms = {"nodeSelectorTerms": [{"matchExpressions": others}]}
        placement["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    return placement


def _mounts(config: ClusterConfig) -> list[Manifest]:
    return [{"name": _volume(claim), "mountPath": claim.path, **_mode(claim)} for claim in config.storage.claims]


def _mode(claim: ClaimSection) -> dict[str, bool]:
    return {"readOnly": True} if claim.read_only else {}


def _volume(claim: ClaimSection) -> str:
    """Of the path: a volume's name is a DNS label of at most 63 letters, where a claim's may hold dots and be longer."""
    return f"claim-{zlib.crc32(claim.path.encode()):08x}"
