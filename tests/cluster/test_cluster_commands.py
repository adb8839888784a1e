"""The commands that the shipped clusters and the README show, run as they are shown."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from raytrain.cli import app
from tests.cluster.clusters import EXAMPLES, ROOT, SMALL, written
from tests.cluster.crds import problems_of

SHOWN = re.compile(r"raytrain ((?:kuberay|launcher) [^|>\n]*)")


def shown_in(name: str) -> list[list[str]]:
    """Words of every such command in a file's comments or code, without what is piped on."""
    text = re.sub(r"\\\n[# ]*", "", (ROOT / name).read_text(encoding="utf-8"))
    return [shlex.split(command.split("  #")[0]) for command in SHOWN.findall(text) if "CLUSTER" not in command]


COMMANDS = [words for file in ("README.md", *(str(example.relative_to(ROOT)) for example in EXAMPLES)) for words in shown_in(file)]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_what_is_shown_works(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    *files, manifest = yaml.safe_load_all(result.stdout)
    if words[0] == "launcher":
        assert manifest["cluster_name"]
    else:
        assert [file["kind"] for file in files] == ["ConfigMap"] * ("--" in words)
        assert problems_of(manifest) == []
        assert manifest["kind"] == ("RayJob" if "--" in words else "RayCluster")
        assert manifest["metadata"]["name"] in ("raytrain-cpu", "raytrain-gpu", "first")


def test_every_shipped_cluster_shows_how_it_is_used():
    assert all(len(shown_in(str(example.relative_to(ROOT)))) >= 2 for example in EXAMPLES)


def test_a_warning_stays_out_of_the_manifest(tmp_path):
    cluster, job = tmp_path / "cluster.yaml", written(tmp_path)
    cluster.write_text(SMALL, encoding="utf-8")
    elastic = ["scaling.num_workers={min: 1, max: 40}", "training.checkpoint_every_steps=5"]
    result = CliRunner().invoke(app, ["kuberay", str(cluster), "--set", "train.max=3", "--", "train", job, *elastic, "--resume"])
    assert result.exit_code == 0, result.output
    manifest = yaml.safe_load(result.stdout)
    assert problems_of(manifest) == []
    assert manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["maxReplicas"] == 3
    assert manifest["spec"]["entrypoint"].endswith(" training.checkpoint_every_steps=5 --resume")
    assert result.stderr.startswith("warning: Every worker has to fit")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train",), "Missing argument 'CONFIG'"),
        (("train", "pipelines/configs/movielens_din.yaml", "--resum"), "No such option: --resum"),
        (("predict", "s3://bucket/runs/first"), "Missing option '--output'"),
        (("doctr",), "Did you mean doctor?"),
        (("name=first",), "--set name=first"),
    ],
    ids=["no config", "an option that there is none of", "an option that has to be there", "no command", "a key"],
)
def test_a_command_line_is_read_as_its_command_would_read_it(words, said):
    command = [sys.executable, "-m", "raytrain", "kuberay", "cluster/clusters/cpu.yaml", "--", *words]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert said in found.stderr
