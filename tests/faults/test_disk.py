"""A run directory on a disk that is full, or turns read-only: a clear end, a whole checkpoint, and an exact resume.

Needs a file system of its own, so the right to mount one; the slow harness raises the same errors from the upload.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raytrain.storage import Storage
from raytrain.training.commit import newest
from tests.faults.counting import check_counts, write_counting_dataset
from tests.faults.with_ray import SETTINGS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

# With tables of 100,000 rows a checkpoint takes 1.6 MB: the third does not fit.
TABLE_ROWS = 100_000
TRAIN = """
import sys
from rich.console import Console
from raytrain.run import train
from tests.faults.counting import counting_job
overrides = ("training.checkpoint_every_steps=3", "training.keep_checkpoints=20", "scaling.max_failures=0", *sys.argv[4:])
train(counting_job(sys.argv[1], sys.argv[2], *overrides), Console(), resume=sys.argv[3] == "resume")
"""


def mount(directory: Path, options: str) -> bool:
    return (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if not mount(directory, "size=4m"):
        pytest.skip("mounting a file system takes rights that this user has not")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=False)


def launch(data: Path, runs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TRAIN, str(data), str(runs), *options]
    return subprocess.run(command, env=os.environ | SETTINGS, capture_output=True, text=True, timeout=400, check=False)


def test_a_full_disk_ends_the_run_with_words_and_leaves_a_checkpoint(tmp_path: Path, disk: Path) -> None:
    data = tmp_path / "data"
    write_counting_dataset(data, 200, 200, num_rows_of_table=TABLE_ROWS)
    ended = launch(data, disk, "begin")
    assert ended.returncode
    assert "No space left on device" in ended.stderr
    assert "go on from the last checkpoint with --resume" in ended.stderr
    found = newest(Storage(str(disk / "counted")))
    assert found is not None
    assert mount(disk, "remount,size=200m")
    resumed = launch(data, disk, "resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    check_counts(str(data), str(disk / "counted"), num_epochs=2)


def test_a_read_only_disk_is_refused_with_words(tmp_path: Path, disk: Path) -> None:
    data = tmp_path / "data"
    write_counting_dataset(data, 200, 200)
    assert mount(disk, "remount,ro")
    ended = launch(data, disk, "begin")
    assert ended.returncode
    assert "has to be written. Received: " in ended.stderr
    assert "Read-only file system" in ended.stderr
