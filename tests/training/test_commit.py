"""Which checkpoint counts: what a second launch, a fall back and a lost file leave of the registry."""

import pytest

from raytrain.data.cursor import hash_of
from raytrain.errors import CursorError, RunError, StreamError
from raytrain.storage import Storage
from raytrain.training import commit as registry
from raytrain.training.commit import CHECKPOINTS, CURSOR_FILE, Committed, best_of, commit, newest, our_error, take_over

CURSOR = b"cursor"


def upload(storage: Storage, name: str, step: int) -> Committed:
    """The files of a checkpoint, and what its ranks report."""
    storage.write_bytes(f"{CHECKPOINTS}/{name}/{CURSOR_FILE}", CURSOR)
    return Committed(name=name, step=step, world_size=1, cursor=hash_of(CURSOR), files={CURSOR_FILE: len(CURSOR)}, best=None)


def save(storage: Storage, owner: str, name: str, step: int, parent: str | None, best: bool = False, num_kept: int = 1) -> None:
    for old in commit(storage, owner, upload(storage, name, step), parent, best, num_kept):
        storage.delete_dir(f"{CHECKPOINTS}/{old}")


def kept(storage: Storage) -> list[str]:
    return [name.removeprefix(f"{CHECKPOINTS}/") for launch in storage.list_dirs(CHECKPOINTS) for name in storage.list_dirs(launch)]


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def test_the_newest_and_the_best_are_kept(storage):
    owner = take_over(storage)
    for step, best in ((1, True), (2, False), (3, False)):
        save(storage, owner, f"a/{step}", step, f"a/{step - 1}" if step > 1 else None, best)
    assert kept(storage) == ["a/1", "a/3"]
    assert newest(storage).name == "a/3"
    assert best_of(storage, newest(storage)).name == "a/1"


def test_a_launch_that_was_taken_over_commits_nothing(storage):
    former = take_over(storage)
    save(storage, former, "a/1", 1, None, True)
    take_over(storage)
    with pytest.raises(RunError, match="trained by one launch at a time"):
        save(storage, former, "a/2", 2, "a/1")
    assert newest(storage).name == "a/1"


def test_a_launch_that_takes_over_amid_a_commit_finds_a_whole_checkpoint(storage, monkeypatch):
    former = take_over(storage)
    save(storage, former, "a/1", 1, None, True)
    write, taken = registry._write, []

    def write_late(where, values):
        if not taken:
            taken.append(take_over(where))
        write(where, values)

    monkeypatch.setattr(registry, "_write", write_late)
    with pytest.raises(RunError, match="taken over"):
        save(storage, former, "a/2", 2, "a/1")
    assert newest(storage).name == "a/1"
    save(storage, taken[0], "b/2", 2, "a/1")
    assert newest(storage).name == "b/2"


def test_what_an_earlier_launch_left_unfinished_is_swept(storage):
    owner = take_over(storage)
    save(storage, owner, "a/1", 1, None, True)
    upload(storage, "a/2", 2)
    take_over(storage)
    assert kept(storage) == ["a/1"]


def test_a_fall_back_leaves_later_checkpoints_behind_and_keeps_its_own_best(storage):
    owner = take_over(storage)
    save(storage, owner, "a/4", 4, None, best=True, num_kept=2)
    save(storage, owner, "a/6", 6, "a/4", best=True, num_kept=2)
    storage.filesystem.delete_file(storage.path(f"{CHECKPOINTS}/a/6/{CURSOR_FILE}"))
    assert newest(storage).name == "a/4"
    save(storage, owner, "b/8", 8, "a/4", best=False, num_kept=1)
    assert best_of(storage, newest(storage)).name == "a/4"
    assert kept(storage) == ["a/4", "b/8"]


def test_a_checkpoint_of_one_that_does_not_count_is_refused(storage):
    owner = take_over(storage)
    save(storage, owner, "a/1", 1, None, True)
    with pytest.raises(RunError, match="made after a/2"):
        save(storage, owner, "a/3", 3, "a/2")


def test_without_a_whole_checkpoint_it_says_which_are_missing(storage):
    save(storage, take_over(storage), "a/1", 1, None, True)
    storage.write_bytes(f"{CHECKPOINTS}/a/1/{CURSOR_FILE}", b"change")
    with pytest.raises(RunError, match="each of a/1 lacks files or was changed"):
        newest(storage)


def test_an_error_that_a_restart_cannot_help_decides():
    wrapped = RuntimeError("ray")
    wrapped.__cause__ = CursorError("twice")
    assert isinstance(our_error([StreamError("short"), wrapped]), CursorError)
    assert our_error([RuntimeError("other")]) is None
