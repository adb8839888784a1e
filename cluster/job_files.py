"""The files that a RayJob's command names, carried beside its manifest: pods read what was checked here, whatever their image holds."""

import hashlib
import json
import os.path
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.job_paths import base_of
from cluster.secrets import literal_secrets
from raytrain.config import read_text
from raytrain.errors import ConfigError
from raytrain.settings import parse_yaml, with_overrides

MOUNT = "/etc/raytrain/job"
LIMIT_BYTES = 1_000_000
"""Kubernetes takes 1 MiB in a ConfigMap, its names included."""

Manifest = dict[str, Any]


def files_of(command: str, config: str, overrides: Sequence[str]) -> dict[str, str]:
    """Path from the tree that holds them all -> YAML, of a command's config (first) and the files beside it that it builds on.

    They lie as they lie here, so that one finds the other. Comments stay behind: nothing in them can be checked.

    Raises:
        ConfigError: a file is missing, is no YAML, holds a secret, or they are too large for a ConfigMap.
    """
    # Without following links, which may lead out of the tree.
    paths = [Path(path) for path in dict.fromkeys(map(os.path.abspath, (config, *_beside(command, config, overrides))))]
    tree = os.path.commonpath([path.parent for path in paths])
    files: dict[str, str] = {}
    for path in paths:
        values = parse_yaml(read_text(path), str(path))
        if found := list(literal_secrets(values)):
            raise ConfigError(
                f"Secrets must not stand in a job's config, which goes into its manifest. Received: {', '.join(found)} in {path}. "
                "Put them into a Kubernetes secret and name it in storage.env_from_secrets."
            )
        files[path.relative_to(tree).as_posix()] = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if (size := sum(len(text.encode()) for text in files.values())) > LIMIT_BYTES:
        raise ConfigError(
            f"A job's config has to fit into a ConfigMap, {LIMIT_BYTES:,} bytes. Received: {size:,} bytes in {len(files)} files. "
            "Write it to a claim that every pod mounts and name it by its absolute path."
        )
    return files


def config_map(job: str, namespace: str, files: Mapping[str, str]) -> Manifest:
    """The files as a ConfigMap. Its name is of its content, so that one that is already there holds the same."""
    digest = hashlib.sha256(json.dumps(dict(files)).encode()).hexdigest()[:10]
    labels = {"app.kubernetes.io/part-of": "raytrain", "app.kubernetes.io/instance": job}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{job}-{digest}", "namespace": namespace, "labels": labels},
        "immutable": True,
        "data": {_key(number): text for number, text in enumerate(files.values())},
    }


def mount_into(cluster: Manifest, name: str, files: Mapping[str, str]) -> None:
    """Mounts the ConfigMap of that name into every pod of a cluster's spec, since a command may run on any of them."""
    items = [{"key": _key(number), "path": path} for number, path in enumerate(files)]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        pod["volumes"].append({"name": "job", "configMap": {"name": name, "items": items}})
        pod["containers"][0]["volumeMounts"].append({"name": "job", "mountPath": MOUNT, "readOnly": True})


def _beside(command: str, config: str, overrides: Sequence[str]) -> Iterator[str]:
    """The base of a sweep or a study, and the rolls and data sets of a study of rolls."""
    if command not in ("sweep", "study"):
        return
    if (base := base_of(config, overrides)) is not None:
        yield str(base)
    of_rolls = [one for one in overrides if one.strip().startswith("rolls.")]
    rolls = with_overrides(parse_yaml(read_text(config), config), of_rolls).get("rolls")
    for case in rolls.values() if isinstance(rolls, Mapping) else ():
        if isinstance(case, Mapping):
            yield from (str(Path(config).parent / case[key]) for key in ("roll", "prepare") if isinstance(case.get(key), str))


def _key(number: int) -> str:
    """A key of a ConfigMap has no slashes and no letters but ASCII's."""
    return f"{number}.yaml"
