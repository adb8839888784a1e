"""What one pod asks for and where it may run: the head's, and those of the groups of workers."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from raytrain.settings import Section

LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Labels = dict[LabelKey, LabelValue]
SHM_HEADROOM_GIB = 1
"""Of /dev/shm besides Ray's objects: what NCCL and gloo exchange on one node."""


class Toleration(Section):
    """A taint of nodes that pods may run on nevertheless."""

    key: LabelKey | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _check_operator(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError(f"operator=Exists takes no value. Received: value={self.value}. Leave it out.")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("operator=Equal compares a key. Received: key=null. Set key, or operator=Exists.")
        return self


class SpotSection(Section):
    """Nodes that the cloud may take back. Pods that are not on spot are kept off nodes with any of these labels."""

    labels: Labels = Field(min_length=1)
    """What the cloud's spot nodes are labelled with, for example {cloud.google.com/gke-spot: "true"}."""
    tolerations: tuple[Toleration, ...] = ()


class PodSection(Section):
    """One pod, which is one Ray node. Requests are limits, so that nothing of it is lent to others."""

    cpus: PositiveInt
    memory_gib: PositiveInt
    object_store_gib: PositiveInt = 1
    """Of memory_gib, for batches on their way; /dev/shm is made to hold it."""
    node_selector: Labels = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    spot: SpotSection | None = None
    """Null keeps to nodes on demand."""

    @property
    def shm_gib(self) -> int:
        return self.object_store_gib + SHM_HEADROOM_GIB

    @model_validator(mode="after")
    def _check_store(self) -> Self:
        if self.shm_gib >= self.memory_gib:
            raise ValueError(
                "/dev/shm is part of a pod's memory and has to leave some to processes. "
                f"Received: object_store_gib={self.object_store_gib} + {SHM_HEADROOM_GIB} of memory_gib={self.memory_gib}. "
                "Lower object_store_gib."
            )
        return self


class GroupSection(PodSection):
    """Pods alike, as many as are asked for between two ends."""

    min: NonNegativeInt = 0
    max: PositiveInt

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min has to be at most max. Received: min={self.min}, max={self.max}. Swap them.")
        return self


class TrainSection(GroupSection):
    """Where training workers run; with GPUs nothing else has them."""

    gpus: NonNegativeInt = 0
    """Of one pod."""
    gpu_resource: LabelKey = "nvidia.com/gpu"
    accelerator: Labels = Field(default_factory=dict)
    """Labels of nodes with the right accelerator, for example {cloud.google.com/gke-accelerator: nvidia-l4}."""
