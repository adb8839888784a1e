"""The files of a RayJob's command, laid out as a pod's kubelet would lay them out, and read by the command that runs there."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from cluster.job_command import JobCommand, job_command
from cluster.job_files import LIMIT_BYTES, MOUNT
from cluster.kuberay import ray_job, to_yaml
from raytrain.cli import app
from raytrain.config import load_config
from raytrain.errors import ConfigError
from raytrain.job_request import request_of
from raytrain.settings import parse_yaml
from tests.cluster.clusters import ROOT, small
from tests.cluster.crds import problems_of
from tests.messages import assert_three_parts

DATA, RUNS = "data.path=s3://b/data", "run.storage_path=s3://b/runs"


def command_of(*words: str) -> JobCommand:
    return job_command(small(), request_of(get_command(app), words, "raytrain kuberay CLUSTER --"))


def pods_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def values_of(config: Path) -> dict[str, Any]:
    return parse_yaml(config.read_text(), str(config))


def mounted(words: list[str], folder: Path) -> tuple[dict[str, Any], Path]:
    """The RayJob of a command, and its config where a pod would find it, with ``folder`` for a pod's root."""
    printed = to_yaml(*ray_job(small(), command_of(*words)))
    files, job = yaml.safe_load_all(printed)
    assert problems_of(job) == []
    for pod in pods_of(job):
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "job"]
        assert volume["configMap"]["name"] == files["metadata"]["name"]
        assert {"name": "job", "mountPath": MOUNT, "readOnly": True} in pod["containers"][0]["volumeMounts"]
    for item in volume["configMap"]["items"]:
        place = folder / MOUNT.strip("/") / item["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(files["data"][item["key"]])
    (config,) = [word for word in job["spec"]["entrypoint"].split() if word.startswith(f"{MOUNT}/")]
    return job, folder / config.strip("/")


def test_a_job_is_trained_from_the_config_that_was_checked(tmp_path: Path) -> None:
    shown = "pipelines/configs/movielens_lcn.yaml"
    job, config = mounted(["train", shown, DATA, RUNS], tmp_path)
    assert job["spec"]["entrypoint"] == f"raytrain train {MOUNT}/movielens_lcn.yaml {DATA} {RUNS}"
    assert load_config(str(config), ()) == load_config(str(ROOT / shown), ())


def test_a_sweep_finds_its_base(tmp_path: Path) -> None:
    shown = "tuning/sweeps/planted_lcn.yaml"
    _, config = mounted(["sweep", shown, DATA, "work_dir=s3://b/x"], tmp_path)
    assert values_of(config) == values_of(ROOT / shown)
    base = values_of(config)["base"]
    assert values_of(config.parent / base) == values_of((ROOT / shown).parent / base)


def test_a_study_of_rolls_finds_its_rolls_and_its_data_sets(tmp_path: Path) -> None:
    _, config = mounted(["study", "pipelines/studies/ecdctr.yaml", "work_dir=s3://b/x"], tmp_path)
    for case in values_of(config)["rolls"].values():
        for key in ("roll", "prepare"):
            assert values_of(config.parent / case[key]) == values_of(ROOT / "pipelines/studies" / case[key])


def test_a_roll_that_an_override_names_goes_along() -> None:
    words = ["study", "pipelines/studies/ecdctr.yaml", "work_dir=s3://b/x", "rolls.shift_90.roll=../rolls/movielens.yaml"]
    assert "rolls/movielens.yaml" in command_of(*words).files


def test_the_same_files_have_one_name_and_others_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for lr in (0.1, 0.1, 0.2):
        Path("job.yaml").write_text(yaml.safe_dump({"data": {"path": "s3://b/x"}, "model": {"name": "din"}, "optimizer": {"lr": lr}}))
        files, _ = ray_job(small(), command_of("train", "job.yaml", RUNS))
        names.append(files["metadata"]["name"])
    assert names[0] == names[1] != names[2]


def test_a_value_of_an_option_is_no_config(tmp_path: Path) -> None:
    job, config = mounted(["bench", "--stages", "compute", "pipelines/configs/bench_din.yaml", DATA], tmp_path)
    assert job["spec"]["entrypoint"] == f"raytrain bench --stages compute {MOUNT}/bench_din.yaml {DATA}"
    assert values_of(config) == values_of(ROOT / "pipelines/configs/bench_din.yaml")


def test_the_machine_alone_is_looked_at_without_a_config() -> None:
    (job,) = ray_job(small(), command_of("doctor", "--json"))
    assert job["spec"]["entrypoint"] == "raytrain doctor --json"


def test_a_run_is_named_and_carries_nothing() -> None:
    (job,) = ray_job(small(), command_of("evaluate", "s3://b/runs/first"))
    assert job["spec"]["entrypoint"] == "raytrain evaluate s3://b/runs/first"
    assert all(volume["name"] != "job" for pod in pods_of(job) for volume in pod["volumes"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: {password: hunter2}", "Received: source.password in"),
        ("source: 'https://me:hunter2@host/x'", "Received: source in"),
        (f"source: {'x' * LIMIT_BYTES}", f"{LIMIT_BYTES:,} bytes. Received: 1,000,009 bytes in 1 files"),
    ],
    ids=["a secret by its name", "a secret in a URI", "more than a ConfigMap holds"],
)
def test_what_no_manifest_may_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prepare.yaml").write_text(f"# token: hunter2\n{text}\n")
    with pytest.raises(ConfigError) as raised:
        command_of("prepare", "prepare.yaml")
    assert_three_parts(raised.value, said)
    assert "hunter2" not in str(raised.value)


def test_comments_are_not_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prepare.yaml").write_text("# token: hunter2\noutput: s3://b/x\n")
    assert dict(command_of("prepare", "prepare.yaml").files) == {"prepare.yaml": "output: s3://b/x\n"}
