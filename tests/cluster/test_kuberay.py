"""Manifests against KubeRay's published schema, against what its operator checks beyond it, and against what they are for."""

import json
import os
import re
import shlex
import subprocess
import sys

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from cluster.config import ClusterConfig, load_cluster
from cluster.job_command import JobCommand
from cluster.kuberay import ray_cluster, ray_job, to_yaml
from cluster.replicas import smallest
from cluster.secrets import is_secret_name, literal_secrets
from raytrain.machine import GIB
from raytrain.settings import parse_yaml
from tests.cluster.clusters import EXAMPLES, ROOT, clusters, small
from tests.cluster.crds import json_schema, problems_of


def job_of(config: ClusterConfig, *words: str) -> dict:
    (job,) = ray_job(config, JobCommand(("raytrain", *words), smallest(config)))
    return job


def pod_of(manifest: dict, group: str) -> dict:
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    found = [spec["headGroupSpec"]] if group == "head" else [one for one in spec["workerGroupSpecs"] if one["groupName"] == group]
    return found[0]["template"]["spec"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(config=clusters)
def test_whatever_the_config_kuberay_takes_every_key_and_drops_none(config):
    for manifest in (ray_cluster(config), job_of(config, "train", "a b.yaml")):
        assert problems_of(manifest) == []
        # What is printed is what was made: nothing turns into a number, a boolean or null on the way.
        assert parse_yaml(to_yaml(manifest), "printed") == manifest


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(config=clusters)
def test_whatever_the_config_the_operator_has_nothing_to_refuse(config):
    job = job_of(config, "train", "x.yaml")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert len(job["metadata"]["name"]) <= 47
    assert not spec["ttlSecondsAfterFinished"] or spec["shutdownAfterJobFinishes"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        # Both the autoscaler's second version and SidecarMode refuse another.
        assert pod["restartPolicy"] == "Never"
        assert not {"resources", "labels", "redis-password", "redis-username"} & set(group["rayStartParams"])
        # A volume is mounted where there is one, and each has a name that Kubernetes allows.
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes
        assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in volumes)
        assert not {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & {env["name"] for env in pod["containers"][0]["env"]}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(config=clusters)
def test_whatever_the_config_no_secret_is_in_a_manifest(config):
    job = job_of(config, "train", "x.yaml")
    options = job["spec"]["rayClusterSpec"].get("gcsFaultToleranceOptions", {})
    for value in (options.get("redisPassword"), options.get("redisUsername")):
        assert value is None or (set(value) == {"valueFrom"} and set(value["valueFrom"]) == {"secretKeyRef"})
    assert list(literal_secrets(job)) == []
    for group in ("head", *config.groups):
        assert not [entry for entry in pod_of(job, group)["containers"][0]["env"] if is_secret_name(entry["name"])]


def test_a_key_that_kuberay_would_drop_is_noticed():
    manifest = ray_cluster(small())
    manifest["spec"]["headGroupSpec"]["template"]["spec"]["terminationGracePeriod"] = 5
    assert problems_of(manifest) == [
        "$.spec.headGroupSpec.template.spec: Additional properties are not allowed ('terminationGracePeriod' was unexpected)"
    ]


@pytest.mark.parametrize(
    ("field", "value", "wrong"),
    [
        ("minReplicas", 2**31, "2147483648 is greater than the maximum of 2147483647"),
        ("minReplicas", "1", "'1' is not of type 'integer'"),
        ("rayStartParams", {"num-cpus": 1}, "1 is not of type 'string'"),
        ("groupName", None, "None is not of type 'string'"),
    ],
    ids=["an int32 that is none", "a number in quotes", "a parameter that is no text", "null where it is not nullable"],
)
def test_a_value_that_kubernetes_would_refuse_is_noticed(field, value, wrong):
    manifest = ray_cluster(small())
    manifest["spec"]["workerGroupSpecs"][0][field] = value
    assert [problem.split(": ", 1)[1] for problem in problems_of(manifest)] == [wrong]


def test_two_variables_of_one_name_are_noticed():
    manifest = ray_cluster(small())
    ports = pod_of(manifest, "head")["containers"][0]["ports"]
    ports.append(dict(ports[0]))
    assert len(problems_of(manifest)) == 1


def test_openapi_says_null_and_either_type_in_its_own_words():
    schema = json_schema({"type": "object", "properties": {"at": {"type": "string", "nullable": True}, "size": {
        "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^[0-9]+Gi$", "x-kubernetes-int-or-string": True}}})  # fmt: skip

    def is_valid(value: dict) -> bool:
        return jsonschema.Draft7Validator(schema).is_valid(value)

    assert is_valid({"at": None, "size": 3})
    assert is_valid({"at": "now", "size": "3Gi"})
    assert not is_valid({"size": "3 GB"})
    assert not is_valid({"size": None})


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_shipped_clusters_make_what_kuberay_takes(file):
    config = load_cluster(file)
    assert problems_of(ray_cluster(config)) == []
    assert problems_of(job_of(config, "train", "x.yaml")) == []


def test_there_is_a_shipped_cluster_of_cpus_and_one_of_gpus_on_spot():
    configs = [load_cluster(file) for file in EXAMPLES]
    assert [(config.train.gpus > 0, config.train.spot is not None, config.gcs_fault_tolerance is not None) for config in configs] == [
        (False, False, False), (True, True, True)
    ]  # fmt: skip


def test_nothing_trains_on_the_head():
    params = ray_cluster(small())["spec"]["headGroupSpec"]["rayStartParams"]
    assert (params["num-cpus"], params["num-gpus"]) == ("0", "0")


def test_ray_counts_what_the_pod_has_and_its_store_fits_into_shared_memory():
    group = ray_cluster(small("train.gpus=4", "train.object_store_gib=10"))["spec"]["workerGroupSpecs"][1]
    pod = group["template"]["spec"]
    assert group["rayStartParams"] == {"num-cpus": "8", "num-gpus": "4", "object-store-memory": str(10 * GIB)}
    wanted = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"}
    assert pod["containers"][0]["resources"] == {"requests": wanted, "limits": wanted}
    assert pod["volumes"][0] == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "11Gi"}}
    assert pod["containers"][0]["volumeMounts"][0] == {"name": "shm", "mountPath": "/dev/shm"}


def test_spot_is_chosen_by_its_group_alone():
    manifest = ray_cluster(small("train.spot={labels: {spot: 'true'}, tolerations: [{key: spot, operator: Exists}]}"))
    train, others = pod_of(manifest, "train"), [pod_of(manifest, "head"), pod_of(manifest, "data")]
    assert train["nodeSelector"] == {"spot": "true"}
    assert train["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert "affinity" not in train
    for pod in others:
        terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert terms == [{"matchExpressions": [{"key": "spot", "operator": "NotIn", "values": ["true"]}]}]
        assert not {"nodeSelector", "tolerations"} & set(pod)


def test_a_pod_that_has_to_go_has_time_to_say_so_and_to_stop():
    pod = pod_of(ray_cluster(small("preemption={drain_s: 40, stop_s: 20}")), "train")
    env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert (env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"], pod["terminationGracePeriodSeconds"]) == ("40", 60)


def test_a_node_that_is_cut_off_is_noticed_in_less_than_a_minute():
    for container in (pod_of(ray_cluster(small()), "train"), pod_of(ray_cluster(small("storage.env={NOTE: x}")), "head")):
        env = {entry["name"]: entry.get("value") for entry in container["containers"][0]["env"]}
        assert env["RAY_grpc_client_keepalive_time_ms"] == env["RAY_grpc_client_keepalive_timeout_ms"] == "20000"


def test_the_redis_password_is_looked_up_by_kubernetes():
    config = small("gcs_fault_tolerance={redis_address: 'redis:6379', password_secret: {name: redis, key: password}}")
    assert ray_cluster(config)["spec"]["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("name=open", {"mode": "token"}),
        ("auth.secret_name=mine", {"mode": "token", "secretName": "mine"}),
        ("auth.mode=disabled", {"mode": "disabled"}),
    ],
    ids=["a token that KubeRay makes", "a token of one's own", "none"],
)
def test_a_cluster_asks_for_a_token_unless_told_not_to(override, expected):
    assert ray_cluster(small(override))["spec"]["authOptions"] == expected


def test_data_and_credentials_reach_every_pod():
    manifest = ray_cluster(small("storage.env_from_secrets=[store]", "storage.service_account=trainer", "storage.env={AWS_REGION: eu}"))
    for pod in (pod_of(manifest, name) for name in ("head", "data", "train")):
        container = pod["containers"][0]
        assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
        assert {"name": "AWS_REGION", "value": "eu"} in container["env"]
        assert pod["serviceAccountName"] == "trainer"
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/dev/shm", "/shared"]
        assert pod["volumes"][1]["persistentVolumeClaim"] == {"claimName": "shared"}


def test_the_jobs_submitter_gets_its_image_as_the_head_does():
    config = small("image_pull_secrets=[registry]", "storage.service_account=trainer", "head.node_selector={pool: steady}")
    job = job_of(config, "train", "x.yaml")
    head, submitter = pod_of(job, "head"), job["spec"]["submitterPodTemplate"]["spec"]
    for key in ("imagePullSecrets", "serviceAccountName", "securityContext", "nodeSelector", "restartPolicy"):
        assert submitter[key] == head[key], key
    (container,) = submitter["containers"]
    assert container["image"] == head["containers"][0]["image"]
    # The operator's to add.
    assert not {"command", "args", "env"} & set(container)


@pytest.mark.parametrize("mode", ["HTTPMode", "SidecarMode"])
def test_a_mode_without_a_submitting_pod_has_no_template_of_one(mode):
    assert "submitterPodTemplate" not in job_of(small(f"job.submission_mode={mode}"), "train", "x.yaml")["spec"]


def test_a_job_carries_newer_code_by_its_uri():
    job = job_of(small("code={working_dir: 's3://bucket/code.zip', env: {LEVEL: '1'}}"), "train", "x.yaml")
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]) == {"working_dir": "s3://bucket/code.zip", "env_vars": {"LEVEL": "1"}}


def test_a_job_cleans_up_after_itself_and_waits_for_nothing_without_end():
    spec = job_of(small("job={ttl_s: 60, backoff_limit: 2, start_timeout_s: 100, timeout_s: 1000}"), "train", "x.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert (spec["ttlSecondsAfterFinished"], spec["backoffLimit"]) == (60, 2)
    assert (spec["preRunningDeadlineSeconds"], spec["activeDeadlineSeconds"]) == (100, 1000)


WORDS = ["train", "a b.yaml", "model={name: lightgbm}", "x=[$HOME, `id`, *]", "y='q' \"r\" ; exit 1", "z={a,b}", "e="]


@pytest.mark.parametrize("mode", ["HTTPMode", "K8sJobMode"])
def test_the_command_arrives_word_by_word(mode):
    entrypoint = job_of(small(), *WORDS)["spec"]["entrypoint"]
    if mode == "K8sJobMode":
        # The submitter's shell hands the words to `ray job submit -- WORDS`, which joins them for the job's own shell.
        join = "import shlex, sys; print(shlex.join(sys.argv[1:]), end='')"
        entrypoint = subprocess.check_output(
            ["bash", "-ce", f"{shlex.quote(sys.executable)} -c {shlex.quote(join)} {entrypoint}"], text=True
        )
    show = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))'"
    arrived = subprocess.check_output(entrypoint.replace("raytrain", show, 1), shell=True, text=True)
    assert json.loads(arrived) == WORDS


@pytest.mark.parametrize("text", ["1e3", "y", "N", "12e4567", "0o7", "-1", ".5", "on", "null", "1_000", ""])
def test_a_string_is_one_to_gos_yaml_too(text):
    assert re.fullmatch(r"- (name: MY_VALUE|value: '.*')", to_yaml([{"name": "MY_VALUE", "value": text}]).splitlines()[0])
    assert to_yaml({"value": text}) == f"value: '{text}'\n"


def test_rendering_loads_neither_torch_nor_ray():
    code = (
        "import sys\nimport cluster.config, cluster.job_command, cluster.kuberay, cluster.launcher\n"
        "assert not {'torch', 'ray', 'torchrec'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
