from pathlib import Path

import pytest
import yaml

from pipelines.prepare import load_prepare_config
from pipelines.study_plan import load_study
from raytrain.config import JobConfig, load_config
from raytrain.errors import ConfigError
from tests.messages import assert_three_parts

SOUND = "data:\n  path: /somewhere\nmodel:\n  name: din\n"


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(SOUND)
    return file


def test_a_job_needs_two_lines(config):
    job = load_config(config)
    assert (job.data.path, job.model.name, job.scaling.num_workers) == ("/somewhere", "din", 1)


def test_overrides_reach_every_section(config):
    job = load_config(config, ["training.epochs=3", "run.name=a.b-c_1", "model.hidden_units=[8, 4]", "optimizer.lr=1e-3", "seed=7"])
    assert (job.training.epochs, job.run.name, job.model.hidden_units, job.optimizer.lr, job.seed) == (3, "a.b-c_1", (8, 4), 0.001, 7)


def test_a_model_is_chosen_by_an_override(config):
    assert load_config(config, ["model={name: lightgbm, num_leaves: 7}"]).model.num_leaves == 7
    assert load_config(config, ["model.name=single_domain"]).model.name == "single_domain"


@pytest.mark.parametrize("name", ["din", "single_domain", "item_mean", "logistic", "lightgbm"])
def test_a_resolved_job_reads_back_as_itself(config, tmp_path, name):
    job = load_config(config, [f"model.name={name}", "training.max_steps=5"])
    saved = tmp_path / "resolved.yaml"
    saved.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    assert load_config(saved) == job


BAD_OVERRIDES = {
    "an unknown section": (["trainin.epochs=1"], ("trainin={'epochs': 1}", "Did you mean training?")),
    "an unknown key": (["data.batchsize=8"], ("data.batchsize=8", "Did you mean batch_size?")),
    "an unknown key two levels down": (["training.early_stopping.patince=1"], ("patince=1", "Did you mean patience?")),
    "an unknown key of the model": (["model.num_head=1"], ("model.num_head=1", "Did you mean num_heads?")),
    "a key of another model": (["model.num_leaves=7"], ("model.name=din with num_leaves of lightgbm", "model={name: din}")),
    "another model on this one's keys": (
        ["model.dropout=0.1", "model.num_heads=2", "model.name=logistic"],
        ("model.name=logistic with dropout, num_heads of lcn", "Replace the whole section: 'model={name: logistic}'."),
    ),
    "an unknown model": (["model.name=dien"], ("model.name has to be a known one", "'dien'", "Did you mean din?")),
    "text for a number": (["training.epochs=many"], ("training.epochs", "Received: training.epochs='many'")),
    "a fraction for a count": (["data.batch_size=2.5"], ("data.batch_size", "2.5")),
    "a list for a number": (["seed=[1, 2]"], ("seed", "[1, 2]")),
    "a number for a section": (["training=3"], ("training", "Received: training=3")),
    "a batch of no rows": (["data.batch_size=0"], ("data.batch_size", "greater than 0", "data.batch_size=0")),
    "a negative seed": (["seed=-1"], ("seed", "greater than or equal to 0")),
    "a share above one": (["data.max_quarantine_share=1.5"], ("data.max_quarantine_share", "1.5")),
    "a learning rate of zero": (["optimizer.lr=0"], ("optimizer.lr", "greater than 0")),
    "a NaN learning rate": (["tables.lr=.nan"], ("tables.lr", "finite")),
    "certain dropout": (["model.dropout=1"], ("model.dropout=1", "less than 1")),
    "no attention layer": (["model.attention_units=[]"], ("model.attention_units",)),
    "an unknown optimizer": (["optimizer.name=adamax"], ("optimizer.name", "'adamax'")),
    "an unknown backend": (["tables.backend=remote"], ("tables.backend", "'remote'")),
    "local tables with two workers": (
        ["tables.backend=local", "scaling.num_workers=2"],
        ("tables.backend=local", "scaling.num_workers=2", "Set tables.backend=sharded."),
    ),
    "a batch smaller than the workers": (
        ["data.batch_size=3", "scaling.num_workers=4"],
        ("data.batch_size=3, scaling.num_workers=4",),
    ),
    "a run name with a slash": (["run.name=a/b"], ("run.name", "'a/b'")),
    "a run name that leaves its directory": (["run.name=.."], ("run.name", "'..'")),
    "an empty run name": (["run.name=''"], ("run.name",)),
    "no equals sign": (["training.epochs"], ("An override has to be section.key=value",)),
    "an override through a value": (["seed=1", "seed.x=2"], ("seed.x has to lead through sections", "seed=1")),
    "a null path": (["data.path=null"], ("data.path",)),
}


@pytest.mark.parametrize(("overrides", "expected"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES)
def test_a_bad_override_is_refused(config, overrides, expected):
    with pytest.raises(ConfigError) as error:
        load_config(config, overrides)
    assert_three_parts(error.value, *expected)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.path=s3://me:hunter2@bucket/x", "data.path"),
        ("run.storage_path='s3://bucket/x?access_key=me&secret_key=hunter2'", "run.storage_path"),
        ("start.run=https://me:hunter2@host/run", "start.run"),
        ("start.snapshots=[s3://bucket/a, s3://me:hunter2@bucket/b]", "start.snapshots"),
        ("data.pth=s3://me:hunter2@bucket/x", "data.pth"),
    ],
    ids=["data", "runs", "a start", "a snapshot", "an unknown key"],
)
def test_credentials_in_a_path_are_refused_and_not_repeated(config, override, key):
    with pytest.raises(ConfigError) as error:
        load_config(config, [override])
    assert_three_parts(error.value, "Credentials must not stand in a job's config", f"Received: {key} with", "AWS_SECRET_ACCESS_KEY")
    assert "hunter2" not in str(error.value)


def test_a_path_with_a_region_and_an_endpoint_is_no_credential(config):
    uri = "s3://bucket/x?region=eu-west-1&endpoint_override=host:9000"
    assert load_config(config, [f"data.path={uri}", "start.run=s3://bucket/me@here"]).data.path == uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {name: din}", ("data has to be set", "data=VALUE")),
        ("data: {}\nmodel: {name: din}", ("data.path has to be set", "data.path=VALUE")),
        ("data: {path: x}", ("model has to be set",)),
        ("data: {path: x}\nmodel: {}", ("model.name has to be set", "model.name=VALUE")),
        ("data: {path: x}\nmodel: din", ("model", "din")),
        ("data: [x", ("has to be YAML",)),
        ("- data", ("has to hold a mapping",)),
        ("", ("data has to be set",)),
        ("1: 2", ("1=", "Keys should be strings")),
    ],
    ids=[
        "no data section", "no data.path", "no model", "a model without a name", "a bare model name", "no YAML", "a list", "an empty file",
        "a number for a key",
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_name(tmp_path, text, expected):
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert_three_parts(error.value, str(file), *expected)


def test_a_missing_file_a_directory_and_binary_noise_are_refused(tmp_path):
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    for name in ("missing.yaml", "", "noise.yaml"):
        with pytest.raises(ConfigError) as error:
            load_config(tmp_path / name)
        assert_three_parts(error.value, "A config file has to be", str(tmp_path / name))


CONFIGS = Path(__file__).parents[1] / "pipelines"
KINDS = {
    "prepare to train": (load_config, "configs/prepare_movielens.yaml", "looks like a prepare config", "Run `raytrain prepare "),
    "study to train": (load_config, "studies/movielens_baselines.yaml", "looks like a study", "Run `raytrain study "),
    "job to prepare": (load_prepare_config, "configs/movielens_din.yaml", "looks like a job", "Run `raytrain train "),
    "job to study": (load_study, "configs/movielens_din.yaml", "looks like a job", "Run `raytrain train "),
}


@pytest.mark.parametrize(("load", "file", "kind", "command"), KINDS.values(), ids=KINDS)
def test_a_file_of_another_kind_is_sent_to_its_command(load, file, kind, command):
    with pytest.raises(ConfigError) as error:
        load(str(CONFIGS / file))
    assert_three_parts(error.value, kind, command + str(CONFIGS / file))


def test_a_job_is_frozen(config):
    with pytest.raises(ValueError, match="frozen"):
        load_config(config).seed = 3


def test_batch_size_may_equal_the_number_of_workers():
    JobConfig.parse({"data": {"path": "x", "batch_size": 4}, "model": {"name": "din"}, "scaling": {"num_workers": 4}}, "test")


JOBS = sorted((Path(__file__).parents[1] / "pipelines/configs").glob("movielens_*.yaml"))


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_every_shipped_job_is_valid(file):
    assert load_config(file).data.path == "data/movielens"
