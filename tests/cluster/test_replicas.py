"""A job against a cluster's groups, by hand-computed numbers. data: 0 to 2 pods of 4 CPUs, train: 1 to 2 of 8."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from cluster.config import ClusterConfig
from cluster.job_command import JobCommand, job_command
from cluster.kuberay import ray_job
from cluster.replicas import largest, replicas_for
from raytrain.cli import app
from raytrain.config import load_config
from raytrain.errors import ConfigError, ResourceError
from raytrain.job_request import request_of
from raytrain.resources import needs_of, num_training_streams
from tests.cluster.clusters import JOB, ROOT, clusters, small, written
from tests.messages import assert_three_parts

TRAIN = ("pipelines/configs/movielens_din.yaml", "data.path=s3://b/x", "run.storage_path=s3://b/runs")


def command_of(*words: str, config: ClusterConfig | None = None) -> JobCommand:
    return job_command(config or small(), request_of(get_command(app), words, "raytrain kuberay CLUSTER --"))


def command(tmp_path, *words, config=None):
    return command_of("train", written(tmp_path), *words, config=config)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["scaling.num_workers=1"], {"data": 0, "train": 1}),
        (["scaling.num_workers=7"], {"data": 0, "train": 1}),
        (["scaling.num_workers=8"], {"data": 1, "train": 1}),
        (["scaling.num_workers=9"], {"data": 0, "train": 2}),
        (["scaling.num_workers=4", "scaling.cpus_per_worker=3"], {"data": 0, "train": 2}),
        (["scaling.num_workers=23"], {"data": 2, "train": 2}),
        (["scaling.num_workers={min: 2, max: 9}", "training.checkpoint_every_steps=5"], {"data": 0, "train": 1}),
    ],
    ids=[
        "one worker and two streams of half a CPU",
        "a full pod",
        "workers that fill a pod, streams on another",
        "workers on two pods",
        "two workers a pod and two more on the next",
        "all there is",
        "elastic ones at their fewest",
    ],
)
def test_a_job_starts_with_the_pods_that_it_needs(tmp_path, overrides, expected):
    found = command(tmp_path, *overrides)
    assert found.replicas == expected
    groups = ray_job(small(), found)[-1]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert {group["groupName"]: group["replicas"] for group in groups} == expected


@pytest.mark.parametrize(
    ("overrides", "config", "expected"),
    [
        (
            ["scaling.num_workers=24"],
            [],
            (
                "scaling.num_workers=24 x scaling.cpus_per_worker=1 + 2 streams x data.cpus_per_read_task=0.5 = 25 CPUs",
                "data.max=2 x data.cpus=4 + train.max=2 x train.cpus=8 = 24 CPUs",
                "Set train.max=3.",
            ),
        ),
        (
            ["scaling.num_workers=5", "scaling.cpus_per_worker=5"],
            [],
            ("data.max=2 pods of 4 CPUs x 0 + train.max=2 pods of 8 CPUs x 1 = 2 workers", "Set train.max=5, or fewer workers."),
        ),
        (["scaling.cpus_per_worker=9"], [], ("= 0 workers", "Set scaling.cpus_per_worker to at most 8, or raise train.cpus.")),
        (["scaling.use_gpu=true"], [], ("train.max=2 x train.gpus=0 = 0 GPUs", "Set train.gpus, or scaling.use_gpu=false.")),
        (
            ["scaling.use_gpu=true", "scaling.num_workers=9"],
            ["train.gpus=4"],
            ("scaling.num_workers=9, and train.max=2 x train.gpus=4 = 8 GPUs", "Set train.max=3, or fewer workers."),
        ),
        (
            ["scaling.use_gpu=true", "scaling.num_workers=8", "scaling.cpus_per_worker=3"],
            ["train.gpus=4"],
            ("train.max=2 pods of 8 CPUs and 4 GPUs x 2 = 4 workers", "Set train.max=4, or fewer workers."),
        ),
    ],
    ids=["CPUs in all", "CPUs of a pod", "a worker larger than any pod", "no GPUs", "GPUs in all", "CPUs beside the GPUs"],
)
def test_a_job_that_no_number_of_pods_holds_is_refused_with_the_arithmetic(tmp_path, overrides, config, expected):
    with pytest.raises(ResourceError) as caught:
        command(tmp_path, *overrides, config=small(*config))
    assert_three_parts(caught.value, *expected)


def test_gpu_workers_leave_the_data_pods_to_read_tasks(tmp_path):
    overrides = ["scaling.use_gpu=true", "scaling.num_workers=4", "scaling.cpus_per_worker=2"]
    assert command(tmp_path, *overrides, config=small("train.gpus=4")).replicas == {"data": 1, "train": 1}


def test_elastic_workers_that_can_never_be_as_many_as_they_may_are_told(tmp_path):
    overrides = ["scaling.num_workers={min: 1, max: 40}", "training.checkpoint_every_steps=5"]
    warning = command(tmp_path, *overrides).warning
    assert warning is not None
    assert "scaling.num_workers=40" in warning


@given(config=clusters, num_workers=st.integers(1, 64), cpus=st.sampled_from([0.5, 1, 3]))
def test_what_a_job_starts_with_holds_it_and_is_within_the_ends(config, num_workers, cpus):
    job = load_config(
        ROOT / "pipelines/configs/movielens_din.yaml", [f"scaling.num_workers={num_workers}", f"scaling.cpus_per_worker={cpus}"]
    )
    try:
        found = replicas_for(config, job)
    except ResourceError:
        found = largest(config)
        slots = sum(found[name] * int(group.cpus / cpus) for name, group in config.groups.items())
        total = sum(found[name] * group.cpus for name, group in config.groups.items())
        assert slots < num_workers or total < needs_of(job, num_training_streams(job)).total
        return
    assert all(group.min <= found[name] <= group.max for name, group in config.groups.items())
    assert sum(found[name] * int(group.cpus / cpus) for name, group in config.groups.items()) >= num_workers
    assert sum(found[name] * group.cpus for name, group in config.groups.items()) >= needs_of(job, num_training_streams(job)).total


def test_what_computes_in_the_drivers_process_leaves_the_head(tmp_path):
    job = written(tmp_path, JOB.replace("din", "lightgbm"))
    found = command_of("train", job, config=small("train.min=0"))
    assert found.replicas == {"data": 0, "train": 1}
    assert ray_job(small(), found)[-1]["spec"]["entrypointNumCpus"] == 1


def test_a_command_of_many_runs_starts_small_and_says_so():
    paths = ("base.data.path=s3://b/days", "output=s3://b/roll")
    found = command_of("roll", "pipelines/rolls/complete_journey.yaml", "--from", "2017-10-01", *paths)
    assert found.replicas == {"data": 0, "train": 1}
    assert "`roll`" in str(found.warning)


@pytest.mark.parametrize(
    "words",
    [
        ("sweep", "tuning/sweeps/ecdctr.yaml", "base.data.path=s3://b/x", "work_dir=s3://b/y"),
        ("sweep", "tuning/sweeps/lcn.yaml", "data.path=s3://b/x", "work_dir=s3://b/y"),
        ("study", "pipelines/studies/movielens_lcn.yaml", "data.path=s3://b/x", "work_dir=s3://b/y"),
        ("study", "pipelines/studies/ecdctr.yaml", "work_dir=s3://b/y"),
        ("study", "pipelines/studies/ecdctr.yaml", "rolls.shift_90.prepare=null", "base.data.path=s3://b/x", "work_dir=s3://b/y"),
        ("roll", "--arm", "chain", "pipelines/rolls/complete_journey.yaml", "base.data.path=s3://b/x", "output=s3://b/y"),
    ],
    ids=["sweep over a roll", "sweep", "study", "study of rolls", "study of a roll with data", "an option before the config"],
)
def test_many_runs_go_where_an_override_says(words: tuple[str, ...]):
    assert command_of(*words).warning is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("roll", "pipelines/rolls/complete_journey.yaml", "base.data.path=s3://b/x"), "output=runs/rolls/complete_journey"),
        (("roll", "pipelines/rolls/complete_journey.yaml", "output=s3://b/x"), "base.data.path=data/"),
        (("sweep", "tuning/sweeps/lcn.yaml", "data.path=s3://b/x"), "work_dir=runs/sweeps/lcn"),
        (("sweep", "tuning/sweeps/planted_lcn.yaml", "work_dir=s3://b/x"), "data.path=data/planted_small"),
        (("study", "pipelines/studies/planted_adsnet.yaml", "work_dir=s3://b/x"), "data.path=data/label_flip"),
        (("study", "pipelines/studies/movielens_lcn.yaml", "data.path=s3://b/x"), "work_dir=runs/studies/movielens_lcn"),
        (
            ("study", "pipelines/studies/movielens_lcn.yaml", "--preset", "full", "data.path=s3://b/x", "work_dir=s3://b/y"),
            "presets.full.output=pipelines/studies/movielens_lcn",
        ),
        (
            ("study", "pipelines/studies/ecdctr.yaml", "rolls.shift_90.prepare=null", "work_dir=s3://b/x"),
            "base.data.path=data/planted_drift",
        ),
        (
            ("study", "pipelines/studies/ecdctr.yaml", "rolls.shift_90.prepare=../configs/prepare_kuairand.yaml", "work_dir=s3://b/x"),
            "rolls.shift_90.recipe: recipe.source=data/raw/kuairand",
        ),
    ],
    ids=[
        "roll's output",
        "roll's data",
        "sweep's output",
        "sweep's own override",
        "study's grid",
        "study's runs",
        "study's result",
        "roll of a study",
        "recipe of a study",
    ],
)
def test_many_runs_are_kept_where_every_pod_reaches_them(words: tuple[str, ...], said: str):
    with pytest.raises(ConfigError, match=re.escape(f"Received: {said}")) as error:
        command_of(*words)
    assert_three_parts(error.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian", "x.yaml"], "Did you mean train?"),
        (["lineage", "s3://b/runs/first"], "Received: lineage. Choose one of: bench, doctor"),
        (["train", "JOB", "data.path=data/movielens"], "data.path=data/movielens, claims at /shared"),
        (["train", "JOB", "run.storage_path=runs"], "run.storage_path=runs"),
        (["train", "JOB", "data.path=/shared/../etc"], "data.path=/shared/../etc"),
        (["train", "JOB", "run.storage_path=s3://me:hunter2@host/runs"], "Received: run.storage_path."),
        (["train", "JOB", "traning.epochs=3"], "Did you mean training?"),
    ],
    ids=[
        "no command of raytrain",
        "no command for a cluster",
        "data on a pod's own disk",
        "runs on a pod's own disk",
        "a path out of the claim",
        "a secret",
        "an unknown key",
    ],
)
def test_a_command_that_would_fail_on_the_cluster_fails_here(tmp_path, words, expected):
    with pytest.raises(ConfigError) as caught:
        command_of(*[word.replace("JOB", written(tmp_path)) for word in words])
    assert_three_parts(caught.value, expected)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prepare", "pipelines/configs/prepare_movielens.yaml"), "output=data/movielens"),
        (("prepare", "pipelines/configs/prepare_kuairand.yaml", "output=s3://b/x"), "recipe.source=data/raw/kuairand"),
        (
            ("prepare", "pipelines/configs/prepare_parquet_example.yaml", "output=s3://b/x"),
            "recipe.domains.ads.path=data/raw/ads/*.parquet",
        ),
        (("prepare", "/etc/prepare.yaml"), "CONFIG=/etc/prepare.yaml"),
        (("evaluate", "runs/first"), "RUN=runs/first"),
        (("evaluate", "s3://b/first", "data.path=data/other"), "data.path=data/other"),
        (("predict", "s3://b/first", "--output", "predictions"), "--output=predictions"),
        (("predict", "s3://b/first", "--output", "s3://b/x", "--input=data/other"), "--input=data/other"),
        (("train", *TRAIN, "start.run=runs/local"), "start.run=runs/local"),
        (("train", *TRAIN, "model={name: ecdctr}", "start.snapshots=[runs/may]"), "start.snapshots[0]=runs/may"),
        (("train", *TRAIN, "--baseline", "s3://b/one", "--baseline", "runs/two"), "--baseline=runs/two"),
        (("sweep", "tuning/sweeps/lcn.yaml", "data.path=s3://b/x", "work_dir=s3://b/y", "start.run=runs/local"), "start.run=runs/local"),
        (("bench", "pipelines/configs/bench_din.yaml"), "data.path=data/bench_din"),
    ],
    ids=[
        "a data set on a pod's own disk",
        "a data set made from files that stay here",
        "events that stay here",
        "a config that no pod has",
        "a run that stays here",
        "data of a run that stay here",
        "predictions on a pod's own disk",
        "data of predictions that stay here",
        "a start that stays here",
        "a snapshot that stays here",
        "a baseline that stays here",
        "a start of trials that stays here",
        "data of a bench on a pod's own disk",
    ],
)
def test_what_one_pod_alone_would_see_is_refused(words: tuple[str, ...], said: str):
    with pytest.raises(ConfigError, match=re.escape(f"Received: {said}, claims at /shared")) as error:
        command_of(*words)
    assert_three_parts(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ("prepare", "pipelines/configs/prepare_movielens.yaml", "output=/shared/data"),
        ("prepare", "pipelines/configs/prepare_kuairand.yaml", "recipe.source=s3://b/raw", "output=s3://b/x"),
        ("evaluate", "/shared/runs/first", "--split", "valid", "scaling.num_workers=2"),
        ("predict", "/shared/runs/first", "--output", "/shared/predictions"),
        ("train", *TRAIN, "--resume", "--baseline", "/shared/runs/other", "start.run=/shared/runs/first"),
        ("bench", "--stages", "compute", "pipelines/configs/bench_din.yaml", "data.path=/shared/x"),
        ("doctor",),
        ("doctor", "--json", "pipelines/configs/movielens_din.yaml"),
    ],
    ids=lambda words: " ".join(words)[:60],
)
def test_paths_below_a_claim_reach_every_pod(words: tuple[str, ...]):
    assert command_of(*words).words[1] == words[0]


def test_predictions_need_a_claim_that_can_be_written():
    config = small("storage.claims=[{name: shared, path: /shared, read_only: true}]")
    command_of("evaluate", "/shared/runs/first", config=config)
    with pytest.raises(ConfigError, match=r"--output=/shared/x, on shared, read_only=true"):
        command_of("predict", "/shared/runs/first", "--output", "/shared/x", config=config)


def test_a_retry_that_the_runs_name_forbids_is_refused_before_it_costs_a_cluster(tmp_path):
    config = small("job.backoff_limit=2")
    with pytest.raises(ConfigError) as caught:
        command(tmp_path, "run.name=first", config=config)
    assert_three_parts(caught.value, "job.backoff_limit=2, run.name=first")
    command(tmp_path, config=config)
    command(tmp_path, "run.name=first", "--resume", config=config)


def test_runs_need_a_claim_that_can_be_written(tmp_path):
    config = small("storage.claims=[{name: shared, path: /shared, read_only: true}]")
    command(tmp_path, "data.path=/shared/data", config=config)
    with pytest.raises(ConfigError, match="read_only=true"):
        command(tmp_path, "run.storage_path=/shared/runs", config=config)
