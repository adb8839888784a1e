"""The typed cluster: one YAML file -> a frozen ``ClusterConfig``, which KubeRay manifests and launcher files are rendered from."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from cluster.pod_config import GroupSection, PodSection, TrainSection
from cluster.secrets import literal_secrets
from raytrain.config import check_kind, read_text
from raytrain.errors import ConfigError
from raytrain.settings import Section, parse_yaml, with_overrides

ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""Of a Kubernetes object: a DNS subdomain."""
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Uri = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://\S+$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\s:]*[^\s:/]$")]
DRAIN_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
OURS = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_REDIS_ADDRESS", "REDIS_USERNAME", "REDIS_PASSWORD", "RAY_enable_autoscaler_v2", DRAIN_VARIABLE)
"""Environment that is set already; KubeRay refuses most of it from others."""
CPU_IMAGE = "projects/deeplearning-platform-release/global/images/family/common-cpu"
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "20000", "RAY_grpc_client_keepalive_timeout_ms": "20000"}
"""A node that is cut off closes no connection: whoever waits for one of its read tasks learns of it by a ping alone, which Ray sends after
5 minutes and gives another 2. storage.env may say otherwise."""


class AutoscalingSection(Section):
    """Ray's own autoscaler, beside the head."""

    enabled: bool = True
    """False keeps every group at the replicas that it starts with."""
    idle_timeout_s: PositiveInt = 300
    upscaling: Literal["Default", "Aggressive", "Conservative"] = "Default"
    version: Literal["v1", "v2"] = "v2"


class SecretKey(Section):
    """One entry of a Kubernetes secret, by name."""

    name: ResourceName
    key: Annotated[str, Field(pattern=r"^[-._A-Za-z0-9]{1,253}$")]


class GcsSection(Section):
    """Redis outside the cluster, from which a new head takes over what the lost one knew."""

    redis_address: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:\d{1,5}(,[A-Za-z0-9.-]+:\d{1,5})*$")]
    """host:port"""
    password_secret: SecretKey | None = None
    username_secret: SecretKey | None = None
    storage_namespace: str | None = None
    """Keys of several clusters in one Redis are told apart by it; null takes the cluster's own identity."""


class AuthSection(Section):
    """Who may use the cluster. Without a token, whoever reaches its ports runs what they like on it."""

    mode: Literal["token", "disabled"] = "token"
    """KubeRay makes the token, a Kubernetes secret of the cluster's name, and hands it to the pods and to the job's submitter."""
    secret_name: ResourceName | None = None
    """A secret with the key auth_token, to be used instead."""


class ClaimSection(Section):
    """A persistent volume claim that exists, mounted into every pod. More than one node has to be able to mount it."""

    name: ResourceName
    path: AbsolutePath
    read_only: bool = False


class StorageSection(Section):
    """How pods reach data and runs."""

    service_account: ResourceName | None = None
    """Whose identity object stores know; null takes the namespace's default."""
    env: dict[EnvName, str] = Field(default_factory=dict)
    """Plain variables of every pod: AWS_REGION, AWS_ENDPOINT_URL."""
    env_from_secrets: tuple[ResourceName, ...] = ()
    """Kubernetes secrets, each entry of which becomes a variable of every pod."""
    claims: tuple[ClaimSection, ...] = ()


class CodeSection(Section):
    """Code that is newer than the image's; by default the image's runs."""

    working_dir: Uri | None = None
    """A zip that Ray fetches: s3://, gs://, https://. The job's command runs inside it."""
    py_modules: tuple[Uri, ...] = ()
    env: dict[EnvName, str] = Field(default_factory=dict)
    """Variables of this job alone."""


class PreemptionSection(Section):
    """What a pod that has to go does first: Ray drains it, and Train hears of it within 5 s."""

    drain_s: PositiveInt = 60
    """At most as long as the cloud waits: GKE gives spot pods 25 s, EC2 120 s."""
    stop_s: PositiveInt = 15
    """For Ray's processes to end after that."""


class JobSection(Section):
    """A RayJob."""

    submission_mode: Literal["K8sJobMode", "HTTPMode", "SidecarMode"] = "K8sJobMode"
    shutdown_after: bool = True
    """Delete the cluster once the job has ended."""
    ttl_s: NonNegativeInt = 3600
    """How long an ended job's cluster stays, for its logs."""
    backoff_limit: NonNegativeInt = 0
    """New clusters that a failed job is tried on, from its beginning: a run survives the loss of workers by itself."""
    start_timeout_s: PositiveInt = 1800
    """Pods that have not all come by then fail the job."""
    timeout_s: PositiveInt | None = None
    """Null lets the job take as long as it takes."""

    @model_validator(mode="after")
    def _check_ttl(self) -> Self:
        if self.ttl_s and not self.shutdown_after:
            raise ValueError(
                "ttl_s says when the cluster is deleted. "
                f"Received: ttl_s={self.ttl_s}, shutdown_after=false. Set ttl_s=0, or shutdown_after=true."
            )
        return self


class AwsSection(Section):
    """Machines of `raytrain launcher --provider aws`."""

    region: str
    availability_zone: str | None = None
    ssh_user: str = "ubuntu"
    image_id: str | None = None
    """An AMI with Docker, and NVIDIA's driver and container toolkit where there are GPUs; null takes Ray's default."""
    instance_profile: str | None = None
    """IAM profile that gives workers access to data and runs; null gives them none."""
    head: str = "m5.2xlarge"
    data: str = "m5.4xlarge"
    train: str = "g5.4xlarge"
    disk_gib: PositiveInt = 200


class GcpSection(Section):
    """Machines of `raytrain launcher --provider gcp`."""

    project_id: str
    region: str
    availability_zone: str
    ssh_user: str = "ubuntu"
    source_image: str = CPU_IMAGE
    """With Docker, and NVIDIA's driver and container toolkit where there are GPUs."""
    service_account: str | None = None
    """Email of the account that gives workers access to data and runs; null gives them none."""
    head: str = "n2-standard-8"
    data: str = "n2-standard-16"
    train: str = "g2-standard-16"
    accelerator: str | None = None
    """Attached to the train machines, for example nvidia-tesla-t4; null where the machine type brings its own, as g2 does."""
    disk_gib: PositiveInt = 200


class LauncherSection(Section):
    aws: AwsSection | None = None
    gcp: GcpSection | None = None


class ClusterConfig(Section):
    """Everything that a cluster's manifests are made of. It holds no secret, only names of secrets."""

    # 47 is what KubeRay leaves a RayJob.
    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")]
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "default"
    image: Annotated[str, Field(pattern=r"^\S+$")]
    """Built from cluster/docker/Dockerfile."""
    image_pull_secrets: tuple[ResourceName, ...] = ()
    user_id: PositiveInt = 1000
    """Whom pods run as, never root; the Dockerfile's own."""
    ray_version: str | None = None
    """Of the image; null takes the installed one, and another is refused."""
    head: PodSection
    data: GroupSection | None = None
    """CPU nodes for read tasks; null leaves these to the train group."""
    train: TrainSection
    autoscaling: AutoscalingSection = AutoscalingSection()
    gcs_fault_tolerance: GcsSection | None = None
    auth: AuthSection = AuthSection()
    storage: StorageSection = StorageSection()
    code: CodeSection = CodeSection()
    preemption: PreemptionSection = PreemptionSection()
    job: JobSection = JobSection()
    launcher: LauncherSection = LauncherSection()

    @property
    def groups(self) -> dict[str, GroupSection]:
        """Worker groups by name."""
        return ({"data": self.data} if self.data is not None else {}) | {"train": self.train}

    @property
    def pods(self) -> dict[str, PodSection]:
        """The head and the groups, by name."""
        return {"head": self.head, **self.groups}

    @property
    def spot_labels(self) -> dict[str, list[str]]:
        """What pods on demand keep away from: key -> values."""
        found: dict[str, list[str]] = {}
        for pod in self.pods.values():
            for key, value in pod.spot.labels.items() if pod.spot is not None else ():
                found.setdefault(key, []).extend([] if value in found.get(key, ()) else [value])
        return found

    @model_validator(mode="before")
    @classmethod
    def _refuse_secrets(cls, values: Any) -> Any:
        found = list(literal_secrets(values))
        if found:
            raise ValueError(
                f"Secrets must not stand in a cluster's config, whose manifests are shown and kept. Received: {', '.join(found)}. "
                "Put them into a Kubernetes secret and name it: storage.env_from_secrets, gcs_fault_tolerance.password_secret={name, key}."
            )
        return values

    @model_validator(mode="after")
    def _check_across_sections(self) -> Self:
        if self.head.spot is not None and self.gcs_fault_tolerance is None:
            raise ValueError(
                "A head on spot nodes takes the cluster with it when it goes, unless Redis keeps what it knew. "
                "Received: head.spot and gcs_fault_tolerance=null. Leave head.spot out, or set gcs_fault_tolerance.redis_address."
            )
        for name, pod in self.pods.items():
            wanted = pod.node_selector | (pod.accelerator if isinstance(pod, TrainSection) else {})
            spot = [f"{key}={value}" for key, value in wanted.items() if value in self.spot_labels.get(key, ())]
            if spot and pod.spot is None:
                raise ValueError(
                    "A pod on demand keeps off the nodes that others have as spot. "
                    f"Received: {name} selects {', '.join(spot)}. Give {name} a spot section, or other nodes."
                )
        taken = sorted(set(OURS) & {*self.storage.env, *self.code.env})
        if taken:
            raise ValueError(
                f"These variables are set already, by KubeRay or from the config. Received: env of {', '.join(taken)}. Leave them out."
            )
        paths = [claim.path for claim in self.storage.claims]
        twice = sorted({path for path in paths if paths.count(path) > 1 or path == "/dev/shm"})
        if twice:
            raise ValueError(f"Every claim has a path of its own, and /dev/shm is Ray's. Received: {', '.join(twice)}. Move one.")
        names = [claim.name for claim in self.storage.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"A claim is mounted once. Received: storage.claims of {', '.join(sorted(names))}. Leave one out.")
        return self


def load_cluster(path: str | Path, overrides: Sequence[str] = ()) -> ClusterConfig:
    """Reads a cluster from YAML and applies ``section.key=value`` overrides.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, a value is out of range, a secret stands in it, or it
            names another version of Ray than the installed one.
    """
    values = parse_yaml(read_text(path), str(path))
    check_kind(values, str(path), "head")
    config = ClusterConfig.parse(with_overrides(values, overrides), str(path))
    check_ray_version(config)
    return config


def installed_ray() -> str:
    """Version of the Ray beside this package, which pyproject.toml pins."""
    return importlib.metadata.version("ray")


def check_ray_version(config: ClusterConfig) -> None:
    """A job of one version of Ray cannot join a cluster of another.

    Raises:
        ConfigError: the config's is not the installed one.
    """
    installed = installed_ray()
    if config.ray_version not in (None, installed):
        raise ConfigError(
            f"The cluster's Ray has to be the one that raytrain is pinned to, {installed}. "
            f"Received: ray_version={config.ray_version}. Set ray_version={installed}, and build the image anew."
        )
