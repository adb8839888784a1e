"""`raytrain kuberay`: a RayCluster, or with a command a RayJob, of a ClusterConfig. Nothing is sent anywhere.

Field by field after KubeRay's API ray.io/v1; the CRDs that tests check against are in tests/cluster/kuberay_crds.
"""

import shlex

import yaml

from cluster.config import ClusterConfig, GcsSection, installed_ray
from cluster.job_command import JobCommand
from cluster.job_files import config_map, mount_into
from cluster.pod_config import GroupSection, TrainSection
from cluster.pods import Manifest, pod_template, secret_value, start_params, submitter_template
from cluster.replicas import Replicas, smallest

API_VERSION = "ray.io/v1"


def ray_cluster(config: ClusterConfig) -> Manifest:
    """A RayCluster that waits for jobs, each group at its fewest."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RayCluster",
        "metadata": _metadata(config),
        "spec": cluster_spec(config, smallest(config)),
    }


def ray_job(config: ClusterConfig, command: JobCommand) -> list[Manifest]:
    """A RayJob with a cluster of its own, as large as the command needs it from the start; before it the files that it reads."""
    job, cluster = config.job, cluster_spec(config, command.replicas)
    files = [config_map(config.name, config.namespace, command.files)] if command.files else []
    for file in files:
        mount_into(cluster, file["metadata"]["name"], command.files)
    spec: Manifest = {
        # Every submission mode hands this to a shell once, K8sJobMode after `ray job submit` has quoted it anew.
        "entrypoint": shlex.join(command.words),
        "submissionMode": job.submission_mode,
        "shutdownAfterJobFinishes": job.shutdown_after,
        "ttlSecondsAfterFinished": job.ttl_s,
        "backoffLimit": job.backoff_limit,
        "preRunningDeadlineSeconds": job.start_timeout_s,
        "rayClusterSpec": cluster,
    }
    if job.submission_mode == "K8sJobMode":
        spec["submitterPodTemplate"] = submitter_template(config)
    if command.entrypoint_cpus:
        spec["entrypointNumCpus"] = command.entrypoint_cpus
    if job.timeout_s is not None:
        spec["activeDeadlineSeconds"] = job.timeout_s
    runtime_env = _runtime_env(config)
    if runtime_env:
        spec["runtimeEnvYAML"] = yaml.safe_dump(runtime_env, sort_keys=False)
    return [*files, {"apiVersion": API_VERSION, "kind": "RayJob", "metadata": _metadata(config), "spec": spec}]


def cluster_spec(config: ClusterConfig, replicas: Replicas) -> Manifest:
    """The part that a RayCluster and a RayJob share."""
    spec: Manifest = {
        # Null is the installed one: load_cluster has seen to it that no other is named.
        "rayVersion": config.ray_version or installed_ray(),
        "authOptions": {"mode": config.auth.mode} | ({"secretName": config.auth.secret_name} if config.auth.secret_name else {}),
        "enableInTreeAutoscaling": config.autoscaling.enabled,
        "headGroupSpec": {
            # No CPUs, so that nothing trains or reads there: the head has the driver, and the cluster to look after.
            "rayStartParams": {"dashboard-host": "0.0.0.0", **start_params(config.head, 0, 0)},
            "template": pod_template(config, config.head, "ray-head"),
        },
        "workerGroupSpecs": [_group(config, name, group, replicas[name]) for name, group in config.groups.items()],
    }
    if config.autoscaling.enabled:
        spec["autoscalerOptions"] = {
            "version": config.autoscaling.version,
            "idleTimeoutSeconds": config.autoscaling.idle_timeout_s,
            "upscalingMode": config.autoscaling.upscaling,
        }
    if config.gcs_fault_tolerance is not None:
        spec["gcsFaultToleranceOptions"] = _fault_tolerance(config.gcs_fault_tolerance)
    return spec


def to_yaml(*manifests: Manifest) -> str:
    """In the order of writing, without YAML's anchors, and such that Go's parser reads a string where a string was written."""
    return "---\n".join(yaml.dump(manifest, Dumper=_PlainDumper, sort_keys=False, width=140) for manifest in manifests)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """1e3 and y are strings to PyYAML, a number and a boolean to Go: quoted, they are strings to both."""
        is_plain = text[:1].isalpha() and text.lower() not in ("y", "n")
        style = "|" if text.endswith("\n") else None if is_plain else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_PlainDumper.add_representer(str, _PlainDumper.represent_text)


def _metadata(config: ClusterConfig) -> Manifest:
    return {"name": config.name, "namespace": config.namespace, "labels": {"app.kubernetes.io/part-of": "raytrain"}}


def _group(config: ClusterConfig, name: str, group: GroupSection, replicas: int) -> Manifest:
    num_gpus = group.gpus if isinstance(group, TrainSection) else 0
    return {
        "groupName": name,
        "replicas": replicas,
        "minReplicas": group.min,
        "maxReplicas": group.max,
        "rayStartParams": start_params(group, group.cpus, num_gpus),
        "template": pod_template(config, group, "ray-worker"),
    }


def _fault_tolerance(section: GcsSection) -> Manifest:
    options: Manifest = {"redisAddress": section.redis_address}
    if section.username_secret is not None:
        options["redisUsername"] = secret_value(section.username_secret)
    if section.password_secret is not None:
        options["redisPassword"] = secret_value(section.password_secret)
    if section.storage_namespace is not None:
        options["externalStorageNamespace"] = section.storage_namespace
    return options


def _runtime_env(config: ClusterConfig) -> Manifest:
    code = config.code
    found = {"working_dir": code.working_dir, "py_modules": list(code.py_modules), "env_vars": dict(code.env)}
    return {key: value for key, value in found.items() if value}
