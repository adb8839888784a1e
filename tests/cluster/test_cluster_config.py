"""What a cluster's config refuses, and what its messages never repeat."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import ClusterConfig, installed_ray, load_cluster
from cluster.secrets import is_secret_name, is_secret_text, literal_secrets, secrets_in_command
from raytrain.errors import ConfigError
from tests.cluster.clusters import ROOT, SMALL, small
from tests.messages import assert_three_parts


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trian.max=3", "Did you mean train?"),
        ("train.memory=3", "Did you mean memory_gib?"),
        ("autoscaling.idle_timeout=3", "Did you mean idle_timeout_s?"),
    ],
    ids=["a section", "a key of a group", "a key of the autoscaler"],
)
def test_an_unknown_key_is_answered_with_the_nearest(override, expected):
    with pytest.raises(ConfigError) as caught:
        small(override)
    assert_three_parts(caught.value, expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("head.spot={labels: {spot: 'true'}}", "gcs_fault_tolerance=null"),
        ("train={min: 3, max: 2, cpus: 8, memory_gib: 32}", "min=3, max=2"),
        ("train.object_store_gib=31", "object_store_gib=31 + 1 of memory_gib=32"),
        ("job={shutdown_after: false}", "ttl_s=3600"),
        ("storage.env={RAY_REDIS_ADDRESS: 'redis:6379'}", "RAY_REDIS_ADDRESS"),
        ("storage.claims=[{name: a, path: /x}, {name: b, path: /x}]", "/x"),
        ("storage.claims=[{name: a, path: /x}, {name: a, path: /y}]", "mounted once"),
        ("train.tolerations=[{operator: Exists, value: x}]", "value=x"),
        ("train.tolerations=[{value: x}]", "key=null"),
    ],
    ids=[
        "a head on spot that nothing brings back",
        "more pods at least than at most",
        "a store that leaves no memory",
        "a time of deletion without deletion",
        "a variable that KubeRay sets",
        "two claims on one path",
        "one claim on two paths",
        "a toleration of any value that names one",
        "a toleration of a value without a key",
    ],
)
def test_what_cannot_be_right_is_refused_with_its_values(override, expected):
    with pytest.raises(ConfigError) as caught:
        small(override)
    assert_three_parts(caught.value, expected)


def test_a_head_on_spot_is_taken_with_a_fault_tolerant_gcs():
    config = small("head.spot={labels: {spot: 'true'}}", "gcs_fault_tolerance={redis_address: 'redis:6379'}")
    assert config.head.spot is not None


def test_a_pod_on_demand_cannot_ask_for_the_nodes_that_are_spot():
    with pytest.raises(ConfigError) as caught:
        small("train.spot={labels: {spot: 'true'}}", "head.node_selector={spot: 'true'}")
    assert_three_parts(caught.value, "head selects spot=true")


@pytest.mark.parametrize(
    "name", ["Upper", "1st", "a_b", "a" * 48, "a\n", ""], ids=["upper case", "digit", "underscore", "long", "break", "none"]
)
def test_a_name_that_kubernetes_would_refuse_is_refused(name):
    with pytest.raises(ConfigError):
        ClusterConfig.parse({**small().model_dump(), "name": name}, "test")


PLANTED = "hunter2Zq9"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (f"gcs_fault_tolerance={{redis_address: 'redis:6379', password: {PLANTED}}}", "gcs_fault_tolerance.password"),
        (f"gcs_fault_tolerance={{redis_address: 'redis:6379', password_secret: {PLANTED}}}", "gcs_fault_tolerance.password_secret"),
        (f"gcs_fault_tolerance={{redis_address: ':{PLANTED}@redis:6379'}}", "gcs_fault_tolerance.redis_address"),
        (f"gcs_fault_tolerance={{redis_address: 'redis://me:{PLANTED}@redis:6379'}}", "gcs_fault_tolerance.redis_address"),
        (f"storage.env={{AWS_SECRET_ACCESS_KEY: {PLANTED}}}", "storage.env.AWS_SECRET_ACCESS_KEY"),
        (f"storage.env={{AWS_ACCESS_KEY_ID: {PLANTED}}}", "storage.env.AWS_ACCESS_KEY_ID"),
        (f"storage.env={{STORE: 's3://me:{PLANTED}@host/bucket'}}", "storage.env.STORE"),
        (f"storage.secret_key={PLANTED}", "storage.secret_key"),
        (f"storage.env={{PGPASSWORD: {PLANTED}}}", "storage.env.PGPASSWORD"),
        (f"storage.env={{AZURE_STORAGE_SAS: {PLANTED}}}", "storage.env.AZURE_STORAGE_SAS"),
        (f"storage.env={{STORE: 'https://a.blob.core.windows.net/c?sv=1&sig={PLANTED}'}}", "storage.env.STORE"),
        (f"code.env={{AUTH_HEADER: {PLANTED}}}", "code.env.AUTH_HEADER"),
        (f"code.env={{DB_PASS: {PLANTED}}}", "code.env.DB_PASS"),
        (f"code.env={{HF_TOKEN: {PLANTED}}}", "code.env.HF_TOKEN"),
        (f"code.working_dir=https://me:{PLANTED}@host/code.zip", "code.working_dir"),
        (f"code.py_modules=['https://host/code.zip?token={PLANTED}']", "code.py_modules.0"),
        (f"image=me:{PLANTED}@host/raytrain", "image"),
        (f"redis_password=[{PLANTED}]", "redis_password"),
    ],
    ids=lambda value: value.split("=")[0] if PLANTED in value else "",
)
def test_a_secret_is_refused_wherever_it_stands_and_is_not_repeated(override, named):
    with pytest.raises(ConfigError) as caught:
        small(override)
    assert_three_parts(caught.value, f"Received: {named}.")
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AWS_SECRET_ACCESS_KEY", True),
        ("AWS_ACCESS_KEY_ID", True),
        ("AWS_SESSION_TOKEN", True),
        ("accountKey", True),
        ("AZURE_STORAGE_CONNECTION_STRING", True),
        ("redisPassword", True),
        ("PGPASSWORD", True),
        ("MYSQL_ROOTPASSWORD", True),
        ("DB_PASS", True),
        ("dbPass", True),
        ("SMTP_PASS_2", True),
        ("pass", True),
        ("AZURE_STORAGE_SAS", True),
        ("AUTH_HEADER", True),
        ("AUTH_TOKEN", True),
        ("AUTH_KEY_ID", True),
        ("KAGGLE_KEY", True),
        ("PUSHOVER_USER_KEY", True),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("AWS_ENDPOINT_URL", False),
        ("num_key_values", False),
        ("key", False),
        ("user_key", False),
        ("joinKey", False),
        ("public_key", False),
        ("DB_PASS_FILE", False),
        ("PGPASSWORD_PATH", False),
        ("passwordFile", False),
        ("token-file", False),
        ("SECRETS_DIR", False),
        ("RAY_AUTH_MODE", False),
        ("RAY_AUTH_TOKEN_PATH", False),
        ("auth", False),
        ("mode", False),
        ("author_header", False),
        ("num_passes", False),
        ("pass_through", False),
        ("forward_pass", False),
        ("bypass", False),
        ("passenger", False),
        ("passed_over_side", False),
        ("sasrec", False),
        ("SAS_REGION", False),
        ("max_tokens", False),
    ],
)
def test_a_secret_is_known_by_its_name(name, expected):
    assert is_secret_name(name) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-----BEGIN RSA PRIVATE KEY-----", True),
        ("AKIA" + "A1B2C3D4E5F6G7H8", True),
        ("s3://bucket/runs?secret_key=x", True),
        ("DefaultEndpointsProtocol=https;AccountName=x;AccountKey=abc", True),
        ("SharedAccessSignature=sv", True),
        ("https://a.blob.core.windows.net/c?sig=abc%3D", True),
        ("hf_" + "aB3" * 11 + "x", True),
        ("login with github_pat_" + "A1" * 11 + "_" + "b2" * 29, True),
        ("ghp_" + "aB3" * 12, True),
        ("xoxb-123456789012-abcdefghij", True),
        ("xoxp-123456789012-abcdefghij", True),
        ("raytrain:1.0@sha256:0123", False),
        ("host:5000/raytrain:1.0@sha256:0123", False),
        ("s3://bucket/runs", False),
        ("raytrain@project.iam.gserviceaccount.com", False),
        ("s3://bucket/runs?design=wide&signal=1", False),
        ("hf_hub_download", False),
        ("github_pat_names", False),
        ("xoxo", False),
    ],
    ids=[
        "a private key",
        "an access key",
        "a query",
        "a connection string",
        "a signature",
        "a signature of Azure",
        "a token of Hugging Face",
        "a fine-grained token of GitHub",
        "a token of GitHub",
        "a bot's token of Slack",
        "a user's token of Slack",
        "a digest",
        "a digest on a host",
        "a bucket",
        "an account's address",
        "a query that only begins alike",
        "a function of Hugging Face",
        "no token of GitHub",
        "no token of Slack",
    ],
)
def test_a_secret_is_known_by_its_text(text, expected):
    assert is_secret_text(text) is expected


def test_a_command_names_the_words_that_carry_a_secret():
    words = ["train", "s3://me:pw@host/job.yaml", "run.storage_path=s3://me:pw@host/runs", "data.secret_key=x", "training.epochs=3"]
    assert list(secrets_in_command(words)) == ["word 2", "run.storage_path", "data.secret_key"]
    words = ["train", "https://me:pw@host/job.yaml?v=1", "https://host/b?sig=pw", "--token", "pw", "--db-pass=pw", "--api-key", "pw"]
    assert list(secrets_in_command(words)) == ["word 2", "word 3", "--token", "--db-pass", "--api-key"]


@pytest.mark.parametrize(
    "words",
    [
        ["train", "job.yaml", "--resume", "--baseline", "s3://bucket/runs/a"],
        ["train", "--token-file", "/run/token", "data.user_key=id", "num_passes=2"],
        ["evaluate", "s3://bucket/runs/a?region=eu", "--token"],
        ["train", "job.yaml", "--with-token", "--resume"],
    ],
    ids=["options of ours", "places and columns", "nothing follows", "another option follows"],
)
def test_an_ordinary_command_carries_no_secret(words):
    assert list(secrets_in_command(words)) == []


NAMES = st.lists(st.from_regex(r"[A-Z]{1,8}", fullmatch=True), max_size=3).map(lambda words: "".join(f"{word}_" for word in words))


@given(NAMES, st.sampled_from(["PASSWORD", "PGPASSWORD", "TOKEN", "SECRET", "API_KEY", "SAS", "AUTH_HEADER"]))
def test_whatever_stands_before_it_a_secrets_name_is_refused_and_its_files_is_not(prefix, name):
    assert list(literal_secrets({"env": {f"{prefix}{name}": PLANTED}})) == [f"env.{prefix}{name}"]
    assert list(secrets_in_command(["train", f"--{prefix}{name}", PLANTED])) == [f"--{prefix}{name}"]
    for place in ("FILE", "PATH", "DIR"):
        assert list(literal_secrets({"env": {f"{prefix}{name}_{place}": "/run/secrets/x"}})) == []


SHIPPED = sorted(file for folder in ("pipelines", "tuning", "cluster/clusters") for file in (ROOT / folder).rglob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_no_shipped_file_is_taken_for_one_with_secrets(file):
    assert list(literal_secrets(yaml.safe_load(file.read_text(encoding="utf-8")))) == []


def test_another_ray_than_the_installed_one_is_refused(tmp_path):
    (tmp_path / "cluster.yaml").write_text(SMALL + "ray_version: 2.9.0\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_cluster(tmp_path / "cluster.yaml")
    assert_three_parts(caught.value, "ray_version=2.9.0", f"Set ray_version={installed_ray()}")


def test_a_jobs_config_is_told_from_a_clusters(tmp_path):
    (tmp_path / "job.yaml").write_text("model: {name: din}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="takes a cluster, which has `head:`"):
        load_cluster(tmp_path / "job.yaml")
