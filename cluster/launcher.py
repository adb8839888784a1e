"""`raytrain launcher`: Ray's own cluster launcher (`ray up`) on AWS or GCP, of the same ClusterConfig. Nothing is started.

What machines cannot have of a pod is left out, and the first lines of the file say what.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from cluster.config import CPU_IMAGE, KEEPALIVE, AwsSection, ClusterConfig, GcpSection
from cluster.pod_config import GroupSection, PodSection, TrainSection
from cluster.pods import Manifest
from raytrain.errors import ConfigError
from raytrain.settings import nearest

PROVIDERS = ("aws", "gcp")
# As Ray's autoscaler reads KubeRay's words.
UPSCALING_SPEED = {"Conservative": 1.0, "Default": 1000.0, "Aggressive": 1000.0}
OF_KUBERNETES = (
    "namespace",
    "image_pull_secrets",
    "user_id",
    "gcs_fault_tolerance",
    "auth",
    "storage.service_account",
    "storage.env_from_secrets",
    "storage.claims",
    "code",
    "preemption",
    "job",
    *(f"{pod}.{key}" for pod in ("head", "data", "train") for key in ("node_selector", "tolerations", "object_store_gib")),
    "train.accelerator",
)
"""Keys that say nothing to the launcher. ssh keys, disks of others and security groups are left to Ray's defaults."""


def launcher_config(config: ClusterConfig, provider: str) -> Manifest:
    """What `ray up` reads.

    Raises:
        ConfigError: no such provider, nothing said of its machines, a head on spot, or GPUs without a driver.
    """
    if provider not in PROVIDERS:
        raise ConfigError(f"--provider has to be one that Ray's launcher knows. Received: {provider}. {nearest(provider, PROVIDERS)}")
    machines = config.launcher.aws if provider == "aws" else config.launcher.gcp
    if machines is None:
        raise ConfigError(
            f"The launcher needs the machines of {provider}. Received: launcher.{provider}=null. "
            f"Set launcher.{provider}.region, and head, data and train to machine types."
        )
    if config.head.spot is not None:
        raise ConfigError(
            "The launcher has no Redis to bring a lost head back from. Received: head.spot. Leave head.spot out, or use `raytrain kuberay`."
        )
    num_gpus = max((group.gpus for group in config.groups.values() if isinstance(group, TrainSection)), default=0)
    if num_gpus and isinstance(machines, GcpSection) and machines.source_image == CPU_IMAGE:
        raise ConfigError(
            "Machines with GPUs need an image with Docker, NVIDIA's driver and its container toolkit. "
            f"Received: train.gpus={num_gpus}, launcher.gcp.source_image of CPUs. Set launcher.gcp.source_image."
        )
    types = {"head": _node_type(machines, "head", config.head), **{name: _workers(config, machines, name) for name in config.groups}}
    types["head"] |= {"min_workers": 0, "max_workers": 0}
    return {
        "cluster_name": config.name,
        "max_workers": sum(kind["max_workers"] for kind in types.values()),
        "upscaling_speed": UPSCALING_SPEED[config.autoscaling.upscaling],
        "idle_timeout_minutes": config.autoscaling.idle_timeout_s / 60,
        "provider": _provider(machines),
        "auth": {"ssh_user": machines.ssh_user},
        "docker": {
            "image": config.image,
            "container_name": "raytrain",
            "pull_before_run": True,
            # Ray joins these with blanks and hands them to a shell.
            "run_options": [f"--env {name}={shlex.quote(value)}" for name, value in {**KEEPALIVE, **config.storage.env}.items()],
        },
        "head_node_type": "head",
        "available_node_types": types,
        # The image has all that Ray's default would install.
        "setup_commands": [],
        "cluster_synced_files": [],
    }


def left_out(config: ClusterConfig) -> list[str]:
    """What of the config is for Kubernetes alone, of what has been set."""
    return [path for path in OF_KUBERNETES if _at(config, path)]


def header(config: ClusterConfig) -> str:
    """Comments for the top of the file."""
    missing = left_out(config)
    lines = ["# ray up FILE; then raytrain submit --address of the head, or `ray exec FILE 'raytrain train ...'`."]
    if missing:
        lines.append(f"# Of Kubernetes alone, left out: {', '.join(missing)}.")
    if "storage.env_from_secrets" in missing:
        lines.append("# Credentials come from the machines' own identity (instance profile, service account).")
    return "\n".join(lines) + "\n"


def _node_type(machines: AwsSection | GcpSection, name: str, pod: PodSection) -> Manifest:
    num_gpus = pod.gpus if isinstance(pod, TrainSection) else 0
    resources = {"CPU": 0 if name == "head" else pod.cpus} | ({"GPU": num_gpus} if num_gpus else {})
    spot = pod.spot is not None
    machine = {"head": machines.head, "data": machines.data, "train": machines.train}[name]
    if isinstance(machines, AwsSection):
        return {"resources": resources, "node_config": _aws_node(machines, machine, spot, name == "head")}
    return {"resources": resources, "node_config": _gcp_node(machines, machine, spot, name == "head", num_gpus)}


def _workers(config: ClusterConfig, machines: AwsSection | GcpSection, name: str) -> Manifest:
    group: GroupSection = config.groups[name]
    most = group.max if config.autoscaling.enabled else group.min
    return _node_type(machines, name, group) | {"min_workers": group.min, "max_workers": most}


def _provider(machines: AwsSection | GcpSection) -> Manifest:
    provider: Manifest = {"type": "aws" if isinstance(machines, AwsSection) else "gcp", "region": machines.region}
    if machines.availability_zone is not None:
        provider["availability_zone"] = machines.availability_zone
    if isinstance(machines, GcpSection):
        provider["project_id"] = machines.project_id
    return provider


def _aws_node(machines: AwsSection, machine: str, spot: bool, is_head: bool) -> Manifest:
    disk = {"VolumeSize": machines.disk_gib, "VolumeType": "gp3"}
    node: Manifest = {"InstanceType": machine, "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}]}
    if machines.image_id is not None:
        node["ImageId"] = machines.image_id
    # The head keeps the role that Ray makes for it: it has to start and stop machines.
    if machines.instance_profile is not None and not is_head:
        node["IamInstanceProfile"] = {"Name": machines.instance_profile}
    if spot:
        node["InstanceMarketOptions"] = {"MarketType": "spot"}
    return node


def _gcp_node(machines: GcpSection, machine: str, spot: bool, is_head: bool, num_gpus: int) -> Manifest:
    image = {"diskSizeGb": machines.disk_gib, "sourceImage": machines.source_image}
    node: Manifest = {
        "machineType": machine,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": image}],
    }
    if machines.service_account is not None and not is_head:
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        node["serviceAccounts"] = [{"email": machines.service_account, "scopes": scopes}]
    if num_gpus and machines.accelerator is not None:
        node["guestAccelerators"] = [{"acceleratorType": machines.accelerator, "acceleratorCount": num_gpus}]
    # A machine with a GPU cannot be moved while it runs.
    scheduling = ([{"preemptible": True}] if spot else []) + ([{"onHostMaintenance": "TERMINATE"}] if num_gpus else [])
    return node | ({"scheduling": scheduling} if scheduling else {})


def _at(config: ClusterConfig, path: str) -> bool:
    """Whether the key was written, and says something."""
    node: Any = config
    for key in path.split("."):
        if node is None or key not in node.model_fields_set:
            return False
        node = getattr(node, key)
    return bool(node) if isinstance(node, Mapping | tuple) else node is not None
