"""Whether a job fits a cluster's groups at their largest, and how many pods it starts with. Pure arithmetic."""

from dataclasses import replace
from math import ceil

from cluster.config import ClusterConfig
from cluster.nodes import Node
from cluster.pod_config import TrainSection
from raytrain.config import JobConfig
from raytrain.errors import ResourceError
from raytrain.machine import GIB
from raytrain.resources import Needs, needs_of, num_training_streams

Replicas = dict[str, int]
"""Group -> pods."""


def smallest(config: ClusterConfig) -> Replicas:
    return {name: group.min for name, group in config.groups.items()}


def largest(config: ClusterConfig) -> Replicas:
    return {name: group.max for name, group in config.groups.items()}


def one_pod(config: ClusterConfig) -> Replicas:
    """Pods to start with for what computes in one process, without Ray: it must not be the head's."""
    return {**smallest(config), "train": max(1, config.train.min)}


def replicas_for(config: ClusterConfig, job: JobConfig) -> Replicas:
    """Pods to start with, so that the job fits from its first second: a run is refused where it does not, and the autoscaler
    only adds pods for what has been asked of Ray.

    Elastic workers start with the fewest. Train pods come until the workers have room, then data pods until the read tasks have.

    Raises:
        ResourceError: with the arithmetic, where it does not fit however many pods there are.
    """
    needs = needs_of(job, num_training_streams(job))
    check_fits(config, needs, job.scaling.use_gpu)
    chosen = smallest(config)
    for name, for_all in (("train", False), ("data", True), ("train", True)):
        while (
            name in chosen and not _enough(config, chosen, needs, job.scaling.use_gpu, for_all) and chosen[name] < config.groups[name].max
        ):
            chosen[name] += 1
    return chosen


def short_of(config: ClusterConfig, job: JobConfig) -> str | None:
    """Why elastic workers will never be as many as they may; null where they may."""
    if not job.scaling.elastic:
        return None
    most = job.scaling.max_workers
    needs = replace(needs_of(job, num_training_streams(job)), num_workers=most, num_gpus=most if job.scaling.use_gpu else 0)
    try:
        check_fits(config, needs, job.scaling.use_gpu)
    except ResourceError as err:
        return str(err)
    return None


def check_fits(config: ClusterConfig, needs: Needs, use_gpu: bool) -> None:
    """Refuses a job that would wait for ever, since no number of pods holds it.

    Raises:
        ResourceError: CPUs or GPUs in all, or what fits on one pod.
    """
    groups = largest(config)
    num_gpus = groups["train"] * config.train.gpus
    if needs.num_gpus > num_gpus:
        raise ResourceError(
            "Every worker needs a GPU of the train group at its largest. "
            f"Received: scaling.use_gpu=true, scaling.num_workers={needs.num_gpus}, and train.max={groups['train']} x "
            f"train.gpus={config.train.gpus} = {num_gpus} GPUs. {_more_gpus(config.train, needs.num_gpus)}"
        )
    num_slots, found = _slots(config, groups, needs.cpus_per_worker, use_gpu)
    if num_slots < needs.num_workers:
        raise ResourceError(
            "Every worker has to fit on one pod, and all of them on the groups at their largest. "
            f"Received: scaling.num_workers={needs.num_workers} x scaling.cpus_per_worker={needs.cpus_per_worker:g}, and {found} = "
            f"{num_slots} workers. {_more_slots(config, needs, use_gpu)}"
        )
    num_cpus = _num_cpus(config, groups)
    if needs.total > num_cpus + 1e-6:
        counted = " + ".join(f"{name}.max={groups[name]} x {name}.cpus={group.cpus}" for name, group in config.groups.items())
        missing = ceil((needs.total - num_cpus) / config.train.cpus)
        raise ResourceError(
            "Workers and read tasks have to fit on the groups at their largest; nothing runs on the head. "
            f"Received: {needs.arithmetic}, and {counted} = {num_cpus} CPUs. Set train.max={groups['train'] + missing}. "
            f"{needs.advice(num_cpus)}"
        )


def _enough(config: ClusterConfig, chosen: Replicas, needs: Needs, use_gpu: bool, for_all: bool) -> bool:
    """Whether the workers have room, and with ``for_all`` the read tasks too."""
    num_slots, _ = _slots(config, chosen, needs.cpus_per_worker, use_gpu)
    return num_slots >= needs.num_workers and (not for_all or _num_cpus(config, chosen) + 1e-6 >= needs.total)


def _slots(config: ClusterConfig, pods: Replicas, cpus_per_worker: float, use_gpu: bool) -> tuple[int, str]:
    """Workers that fit, and the sum in words. A worker without a GPU may run on a data pod too."""
    total, parts = 0, []
    for name, group in config.groups.items():
        gpus = group.gpus if isinstance(group, TrainSection) else 0
        each = Node(name, group.cpus, group.memory_gib * GIB, group.object_store_gib * GIB, gpus).slots(cpus_per_worker, use_gpu)
        if name in pods and not (use_gpu and name == "data"):
            total += pods[name] * each
            by = f"of {group.cpus} CPUs and {gpus} GPUs" if use_gpu else f"of {group.cpus} CPUs"
            parts.append(f"{name}.max={pods[name]} pods {by} x {each}")
    return total, " + ".join(parts)


def _num_cpus(config: ClusterConfig, pods: Replicas) -> int:
    return sum(num * config.groups[name].cpus for name, num in pods.items() if name in config.groups)


def _more_gpus(train: TrainSection, wanted: int) -> str:
    return f"Set train.max={ceil(wanted / train.gpus)}, or fewer workers." if train.gpus else "Set train.gpus, or scaling.use_gpu=false."


def _more_slots(config: ClusterConfig, needs: Needs, use_gpu: bool) -> str:
    each = _slots(config, {"train": 1}, needs.cpus_per_worker, use_gpu)[0]
    if not each:
        return f"Set scaling.cpus_per_worker to at most {config.train.cpus}, or raise train.cpus."
    others = 0 if use_gpu else _slots(config, {**largest(config), "train": 0}, needs.cpus_per_worker, use_gpu)[0]
    return f"Set train.max={ceil((needs.num_workers - others) / each)}, or fewer workers."
