"""Cluster configs for tests: a small one to vary, and any that the schema allows."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from cluster.config import ClusterConfig
from raytrain.settings import with_overrides

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "cluster" / "clusters").glob("*.yaml"))
SMALL = """
name: small
image: raytrain:cpu
head: {cpus: 2, memory_gib: 8}
data: {min: 0, max: 2, cpus: 4, memory_gib: 16}
train: {min: 1, max: 2, cpus: 8, memory_gib: 32}
storage: {claims: [{name: shared, path: /shared}]}
"""
JOB = """
data: {path: s3://bucket/data, batch_size: 64}
model: {name: din}
run: {storage_path: s3://bucket/runs}
"""


def small(*overrides: str) -> ClusterConfig:
    return ClusterConfig.parse(with_overrides(yaml.safe_load(SMALL), overrides), "test")


def written(tmp_path: Path, text: str = JOB, name: str = "job.yaml") -> str:
    """Path of a config, on an object store as far as a cluster is concerned."""
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return f"file://{file}"


names = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
keys = st.from_regex(r"([a-z]{1,9}\.[a-z]{2}/)?[A-Za-z]([-A-Za-z0-9_.]{0,9}[A-Za-z0-9])?", fullmatch=True)
values = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,9}[A-Za-z0-9])?)?", fullmatch=True)
node_labels = st.dictionaries(keys, values, max_size=2)
texts = st.one_of(
    st.sampled_from(["1", "1e3", "y", "on", "~", "null", "", "0x1", "1_0", " a: b", "#", "'", '"', "a\nb", "12e4567"]), values
)
env = st.dictionaries(st.from_regex(r"MY_[A-Z0-9]{1,6}", fullmatch=True), texts, max_size=2)
tolerations = st.lists(
    st.one_of(
        st.fixed_dictionaries({"key": keys, "value": values, "effect": st.sampled_from(["NoSchedule", "NoExecute"])}),
        st.fixed_dictionaries({"operator": st.just("Exists")}, optional={"key": keys}),
    ),
    max_size=2,
)
secrets = st.fixed_dictionaries({"name": names, "key": st.sampled_from(["password", "user"])})
SPOT = {"labels": {"spot": "true"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}


def pods(**more: Any) -> st.SearchStrategy[dict[str, Any]]:
    optional = {"node_selector": node_labels, "tolerations": tolerations, "object_store_gib": st.integers(1, 2)}
    required = {"cpus": st.integers(1, 200), "memory_gib": st.integers(4, 2000)}
    return st.fixed_dictionaries(required, optional=optional | more)


def groups(**more: Any) -> st.SearchStrategy[dict[str, Any]]:
    ends = st.tuples(st.integers(0, 50), st.integers(1, 50)).map(sorted)
    spread = st.tuples(ends, pods(spot=st.just(SPOT), **more))
    return spread.map(lambda pair: pair[1] | {"min": pair[0][0], "max": max(1, pair[0][1])})


def _claims(found: list[tuple[str, bool]]) -> list[dict[str, Any]]:
    return [{"name": name, "path": f"/mnt/{index}", "read_only": read_only} for index, (name, read_only) in enumerate(found)]


clusters = st.fixed_dictionaries(
    {"name": names, "image": st.sampled_from(["raytrain:cpu", "host:5000/raytrain:1@sha256:0a"]), "head": pods(), "train": groups(
        gpus=st.integers(0, 8), accelerator=node_labels
    )},
    optional={
        "namespace": names,
        "image_pull_secrets": st.lists(names, max_size=2),
        "data": groups(),
        "autoscaling": st.fixed_dictionaries({}, optional={
            "enabled": st.booleans(), "version": st.sampled_from(["v1", "v2"]), "upscaling": st.sampled_from(["Default", "Conservative"]),
        }),
        "gcs_fault_tolerance": st.fixed_dictionaries(
            {"redis_address": st.just("redis:6379")},
            optional={"password_secret": secrets, "username_secret": secrets, "storage_namespace": names},
        ),
        "auth": st.fixed_dictionaries({"mode": st.sampled_from(["token", "disabled"])}, optional={"secret_name": names}),
        "storage": st.fixed_dictionaries({}, optional={
            "service_account": names,
            "env": env,
            "env_from_secrets": st.lists(names, max_size=2),
            "claims": st.lists(st.tuples(names, st.booleans()), max_size=3, unique_by=lambda claim: claim[0]).map(_claims),
        }),
        "code": st.fixed_dictionaries({}, optional={"working_dir": st.just("s3://bucket/code.zip"), "env": env}),
        "job": st.fixed_dictionaries({}, optional={
            "submission_mode": st.sampled_from(["K8sJobMode", "HTTPMode", "SidecarMode"]),
            "backoff_limit": st.integers(0, 3),
            "timeout_s": st.integers(1, 10**6),
        }),
    },
).map(lambda values: ClusterConfig.parse(values, "hypothesis"))  # fmt: skip
