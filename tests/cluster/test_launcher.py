"""Files for Ray's cluster launcher, by Ray's own validator and autoscaler; and the image, whose pins are the project's."""

import logging
import re
import tomllib

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.config import ClusterConfig, LauncherSection, load_cluster
from cluster.kuberay import ray_cluster, to_yaml
from cluster.launcher import header, launcher_config
from cluster.secrets import literal_secrets
from raytrain.errors import ConfigError
from raytrain.machine import GIB
from tests.cluster.clusters import EXAMPLES, ROOT, clusters, small
from tests.messages import assert_three_parts

MACHINES = {
    "aws": {"region": "eu-central-1", "instance_profile": "trainer"},
    "gcp": {
        "project_id": "mine",
        "region": "europe-west4",
        "availability_zone": "europe-west4-a",
        "service_account": "t@mine.iam",
        "source_image": "projects/mine/global/images/cuda",
    },
}
OFFERED = [(file, name) for file in EXAMPLES for name in ("aws", "gcp") if getattr(load_cluster(file).launcher, name) is not None]
DOCKER = ROOT / "cluster" / "docker"


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.WARNING, "ray.autoscaler")


def with_machines(config: ClusterConfig) -> ClusterConfig:
    return config.model_copy(update={"launcher": LauncherSection.parse(MACHINES, "test")})


def rendered(config: ClusterConfig, provider: str) -> dict:
    """As `ray up` would read the file, with Ray's defaults filled in and checked by Ray."""
    config = yaml.safe_load(header(config) + to_yaml(launcher_config(config, provider)))
    validate_config(config)
    filled = prepare_config(config)
    validate_config(filled)
    return filled


@pytest.mark.parametrize(("file", "provider"), OFFERED, ids=lambda value: getattr(value, "stem", value))
def test_the_shipped_clusters_make_what_ray_takes(file, provider):
    rendered(load_cluster(file), provider)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(config=clusters)
@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_whatever_the_config_ray_takes_it_and_no_secret_is_in_it(provider, config):
    found = rendered(with_machines(config), provider)
    assert list(literal_secrets(launcher_config(with_machines(config), provider))) == []
    assert found["max_workers"] == sum(kind["max_workers"] for kind in found["available_node_types"].values())


def test_nothing_trains_on_the_head_and_groups_keep_their_ends():
    types = rendered(with_machines(small("train.gpus=4")), "aws")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["train"]["resources"] == {"CPU": 8, "GPU": 4}
    assert [(types[name]["min_workers"], types[name]["max_workers"]) for name in ("head", "data", "train")] == [(0, 0), (0, 2), (1, 2)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(config=clusters)
def test_rays_autoscaler_reads_of_a_raycluster_what_the_config_says(config):
    found = _derive_autoscaling_config_from_ray_cr(ray_cluster(config))
    types = found["available_node_types"]
    head = types.pop(found["head_node_type"])
    assert (head["resources"]["CPU"], head["resources"]["GPU"], head["max_workers"]) == (0, 0, 0)
    for name, group in config.groups.items():
        assert (types[name]["min_workers"], types[name]["max_workers"]) == (group.min, group.max)
        gpus = group.gpus if name == "train" else 0
        assert types[name]["resources"] == {"CPU": group.cpus, "GPU": gpus, "memory": group.memory_gib * GIB}
    assert set(types) == set(config.groups)
    assert found["idle_timeout_minutes"] == (config.autoscaling.idle_timeout_s / 60 if config.autoscaling.enabled else 1)


def test_workers_on_spot_and_their_identity_in_the_words_of_each_cloud():
    config = with_machines(small("train.spot={labels: {spot: 'true'}}", "train.gpus=1"))
    aws, gcp = ({name: kind["node_config"] for name, kind in rendered(config, cloud)["available_node_types"].items()} for cloud in MACHINES)
    assert aws["train"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in aws["head"] | aws["data"]
    assert aws["data"]["IamInstanceProfile"] == {"Name": "trainer"}
    # The head keeps the role that Ray makes for it.
    assert "IamInstanceProfile" not in aws["head"]
    assert gcp["train"]["scheduling"] == [{"preemptible": True}, {"onHostMaintenance": "TERMINATE"}]
    assert "scheduling" not in gcp["head"] | gcp["data"]
    assert gcp["train"]["serviceAccounts"][0]["email"] == "t@mine.iam"


def test_variables_reach_the_container_whole():
    config = with_machines(small("storage.env={NOTE: 'a b', RAY_grpc_client_keepalive_time_ms: '9000'}"))
    assert launcher_config(config, "aws")["docker"]["run_options"] == [
        "--env RAY_grpc_client_keepalive_time_ms=9000",
        "--env RAY_grpc_client_keepalive_timeout_ms=20000",
        "--env NOTE='a b'",
    ]


def test_gpus_without_a_driver_are_refused_before_they_are_paid_for():
    bare = {name: value for name, value in MACHINES["gcp"].items() if name != "source_image"}
    launcher = LauncherSection.parse({"gcp": bare}, "test")
    assert launcher_config(small("train.gpus=0").model_copy(update={"launcher": launcher}), "gcp")
    with pytest.raises(ConfigError) as error:
        launcher_config(small("train.gpus=1").model_copy(update={"launcher": launcher}), "gcp")
    assert_three_parts(error.value, "train.gpus=1", "launcher.gcp.source_image")


def test_what_is_of_kubernetes_alone_is_named_in_the_file():
    lines = header(small("storage.env_from_secrets=[store]", "train.accelerator={gpu: l4}", "namespace=x")).splitlines()
    assert lines[1] == "# Of Kubernetes alone, left out: namespace, storage.env_from_secrets, storage.claims, train.accelerator."


@pytest.mark.parametrize(
    ("config", "provider", "expected"),
    [
        (with_machines(small()), "azure", "Choose one of: aws, gcp."),
        (small(), "aws", "launcher.aws=null"),
        (
            with_machines(small("head.spot={labels: {spot: 'true'}}", "gcs_fault_tolerance={redis_address: 'redis:6379'}")),
            "aws",
            "head.spot",
        ),
    ],
    ids=["a cloud that is not offered", "no machines named", "a head on spot"],
)
def test_what_the_launcher_cannot_do_is_refused(config, provider, expected):
    with pytest.raises(ConfigError) as caught:
        launcher_config(config, provider)
    assert_three_parts(caught.value, expected)


def targets() -> dict[str, list[str]]:
    """Stage -> its instructions with those of the stages it is built on."""
    text = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"))
    stages: dict[str, list[str]] = {}
    for line in (line for line in text.splitlines() if line and not line.startswith("#")):
        started = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if started:
            stages[started[2]] = list(stages.get(started[1], [line]))
            stage = started[2]
        else:
            stages[stage].append(line)
    return stages


def pins(texts: list[str]) -> dict[str, str]:
    return dict(re.findall(r"\b(torch|torchrec|fbgemm-gpu-cpu|fbgemm-gpu|ray(?:\[[\w,]+\])?)==([\w.]+)", " ".join(texts)))


def test_the_images_pins_are_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, makefile = project["optional-dependencies"], (ROOT / "Makefile").read_text(encoding="utf-8")
    asked = pins([*project["dependencies"], *extras["cuda"], makefile])
    cpu, cuda = pins(targets()["cpu"]), pins(targets()["cuda"])
    assert cpu == {name: asked[name] for name in ("torch", "torchrec", "fbgemm-gpu-cpu")}
    assert cuda == {"torch": asked["torch"]}
    # torchrec, FBGEMM and Ray of CUDA come with the project's own pins, Ray in both.
    assert "RUN pip install --editable '.[cuda]'" in targets()["cuda"]
    assert any("pip install --editable '.[cpu]'" in line and "--no-deps torchrec" in line for line in targets()["cpu"])
    assert {"torchrec", "fbgemm-gpu"} <= set(pins(extras["cuda"]))
    python = re.search(r">=(\d\.\d+)", project["requires-python"])
    assert python is not None
    # Docker's own image, by no host's name.
    assert targets()["base"][0].startswith(f"FROM python:{python[1]}-")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_as_nobody_special_and_holds_no_secret(target):
    lines = targets()[target]
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"] == lines[-1:]
    assert any(f"useradd --uid {small().user_id}" in line for line in lines)
    assert not re.search(r"https?://|PASSWORD|TOKEN|SECRET|ADD ", "\n".join(lines))
    copied = {line.split()[1] for line in lines if line.startswith("COPY") and len(line.split()) == 3}
    assert copied == {"raytrain", "pipelines", "cluster", "tuning"}
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied | {"pyproject.toml", "README.md"}
    assert "*" in ignored
