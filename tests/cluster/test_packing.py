"""What of the working tree goes along with a job, and what never does."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from cluster.packing import MAX_FILES, MIB, collect, write_zip
from raytrain.errors import ConfigError
from tests.messages import assert_three_parts

FILES = {
    "job.yaml": "seed: 0",
    "raytrain/data/batch.py": "",
    "raytrain/runs/kept.py": "",
    "data/rows.parquet": "rows",
    "runs/first/result.json": "{}",
    ".venv/bin/python": "",
    "raytrain/__pycache__/batch.pyc": "",
    ".env": "KEY=1",
    "keys/server.pem": "key",
    "a file with ümlauts.txt": "",
}
KEPT = ("a file with ümlauts.txt", "job.yaml", "raytrain/data/batch.py", "raytrain/runs/kept.py")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Tracked, untracked, ignored and deleted files."""
    root = write(tmp_path / "tree", {**FILES, ".gitignore": "*.log\n/data/", "gone.py": "", "train.log": "x"})
    git(root, "init", "--quiet")
    git(root, "add", "--force", ".gitignore", "gone.py", "job.yaml", "data/rows.parquet", ".env")
    (root / "gone.py").unlink()
    return root


def test_a_checkout_gives_what_git_has_or_would_add_and_no_data_runs_or_secrets(checkout: Path):
    package = collect(checkout)
    assert package.files == (".gitignore", *KEPT)
    assert package.left_out == (".env", "keys/server.pem")
    assert package.num_bytes == sum((checkout / name).stat().st_size for name in package.files)


def test_a_directory_of_a_checkout_is_packed_by_itself(checkout: Path):
    assert collect(checkout / "raytrain/data").files == ("batch.py",)


def test_without_git_hidden_directories_environments_and_caches_stay_behind(tmp_path: Path):
    root = write(tmp_path, {**FILES, "env/pyvenv.cfg": "", "env/lib/torch.py": "", "raytrain.egg-info/PKG-INFO": "", ".cache/x": ""})
    package = collect(root)
    assert package.files == KEPT
    assert package.left_out == (".env", "keys/server.pem")


SECRETS = (
    *("gcp/service-account-prod.json", "gcp/credentials.json", "home/.netrc", "home/.npmrc", "home/.pypirc", "home/kubeconfig"),
    *("keys/ca.p12", "keys/ca.pfx", "keys/id_ed25519", "keys/id_rsa.pub"),
)


def test_files_named_like_secrets_stay_behind_even_where_git_tracks_them(checkout: Path):
    write(checkout, dict.fromkeys((*SECRETS, "cluster/secrets.py", "credentials/read.py", "service.json"), "x"))
    git(checkout, "add", "--force", ".")
    package = collect(checkout)
    assert set(SECRETS) <= set(package.left_out)
    assert {"cluster/secrets.py", "credentials/read.py", "service.json"} <= set(package.files)


@pytest.fixture
def shared_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As git sees a checkout of another user."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return checkout


@pytest.mark.parametrize("folder", [".", "raytrain/data"])
def test_a_checkout_that_git_refuses_is_not_packed_with_what_it_ignores(shared_checkout: Path, folder: str):
    with pytest.raises(ConfigError) as error:
        collect(shared_checkout / folder)
    assert_three_parts(error.value, "which files of a checkout it ignores", "dubious ownership", f"in {shared_checkout / folder}.")
    assert "\n" not in str(error.value)


def test_a_git_that_does_not_answer_is_waited_for_no_longer(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.packing.GIT_LIMIT_S", 0.0)
    with pytest.raises(ConfigError) as error:
        collect(checkout)
    assert_three_parts(error.value, "no answer within 0 s")


def test_a_directory_that_git_ignores_whole_is_not_packed(checkout: Path):
    write(checkout / "data", {"secrets.yaml": "key: x"})
    git(checkout, "rm", "--quiet", "--cached", "data/rows.parquet")
    with pytest.raises(ConfigError) as error:
        collect(checkout / "data")
    assert_three_parts(error.value, "none to pack", "git may ignore them")


def test_a_machine_without_git_packs_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    assert collect(write(tmp_path / "tree", FILES)).files == KEPT


def test_links_that_lead_outside_and_nested_checkouts_stay_behind(checkout: Path, tmp_path: Path):
    (tmp_path / "outside.txt").write_text("")
    (checkout / "link.txt").symlink_to(tmp_path / "outside.txt")
    (checkout / "inside.yaml").symlink_to("job.yaml")
    write(checkout / "nested", {"a.py": ""})
    git(checkout / "nested", "init", "--quiet")
    package = collect(checkout)
    assert "inside.yaml" in package.files
    assert {"link.txt", "nested/"} <= set(package.left_out)


def test_too_much_is_refused_with_the_biggest_files(checkout: Path):
    for number in range(1, 8):
        (checkout / f"weights-{number}.bin").write_bytes(bytes(number * MIB // 4))
    with pytest.raises(ConfigError) as error:
        collect(checkout, limit_mib=6.5)
    assert_three_parts(error.value, "at most 6.5 MiB", "7.0 MiB", "weights-7.bin (1.8 MiB), weights-6.bin (1.5 MiB)", "--limit-mib")
    assert "weights-2.bin" not in str(error.value)
    assert collect(checkout, limit_mib=7.1).files


def test_a_directory_of_too_many_files_is_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.packing.MAX_FILES", 3)
    with pytest.raises(ConfigError) as error:
        collect(write(tmp_path, FILES))
    assert_three_parts(error.value, "more than 3 files", "project's own directory")
    assert MAX_FILES == 20_000


def test_an_empty_directory_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        collect(tmp_path)
    assert_three_parts(error.value, "none to pack")


def test_an_unchanged_tree_gives_the_same_bytes_and_unpacks_to_itself(checkout: Path, tmp_path: Path):
    (checkout / "run.sh").write_text("#!/bin/sh")
    (checkout / "run.sh").chmod(0o755)
    write_zip(collect(checkout), tmp_path / "first.zip")
    os.utime(checkout / "job.yaml", (1, 1))
    write_zip(collect(checkout), tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "first.zip") as archive:
        assert tuple(archive.namelist()) == collect(checkout).files
        assert archive.read("job.yaml") == b"seed: 0"
        modes = {info.filename: info.external_attr >> 16 & 0o777 for info in archive.infolist()}
    assert (modes["run.sh"], modes["job.yaml"]) == (0o755, 0o644)


@pytest.mark.parametrize(
    ("path", "held"), [("raytrain/data", True), ("raytrain/data/", True), ("./job.yaml", True), ("data", False), ("raytrain/dat", False)]
)
def test_a_package_knows_what_it_holds(checkout: Path, path: str, held: bool):
    assert collect(checkout).holds(path) is held
