"""Fast fault harness: plan, cursor and commit under random crashes, without Ray, processes or Parquet.

    python -m tests.faults.simulated --seeds 0:1000

A seed draws the data, the ranks of every launch, the order batches arrive in, and where each launch dies: before or after
any training step, any upload and any write or deletion of the commit. Launches resume until one comes through. The proof is
a count per row, saved and restored with the checkpoints, held to arithmetic on the manifest that no code under test had a
hand in: the rows of so many batches, and no row counted twice before every row was counted once.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
import typer

from raytrain.data.cursor import Cursor, hash_of
from raytrain.data.fragments import FragmentPlan
from raytrain.data.manifest import Manifest
from raytrain.data.provenance import STATUS_OK, STATUS_PADDING, Provenance
from raytrain.data.window import micro_batches
from raytrain.errors import RunError
from raytrain.storage import Storage
from raytrain.training.commit import CHECKPOINTS, CURSOR_FILE, OWNER, Committed, commit, newest, read_cursor, take_over

Counts = dict[str, npt.NDArray[np.int64]]
MAX_LAUNCHES = 60


class Crash(BaseException):
    """kill -9: nothing of the launch runs after it."""


@dataclass
class Fuse:
    """Burns down by one at every point where a process could die."""

    left: int

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


class MortalStorage(Storage):
    """A storage that can die before and after everything it does."""

    def __init__(self, uri: str, fuse: Fuse) -> None:
        super().__init__(uri)
        self._fuse = fuse

    def write_bytes(self, name: str, data: bytes) -> None:
        self._fuse.burn()
        super().write_bytes(name, data)
        self._fuse.burn()

    def delete_dir(self, name: str) -> None:
        # Deleting a directory is many operations: it may stop after any of them.
        for file in self.list_files(name):
            self._fuse.burn()
            self.filesystem.delete_file(self.path(file))
        super().delete_dir(name)
        self._fuse.burn()


@dataclass(frozen=True)
class Scenario:
    """Everything a seed decides before the first launch."""

    plans: dict[str, FragmentPlan]
    epochs: int
    in_order: bool
    checkpoint_every: int
    num_kept: int
    max_batches: int | None

    @property
    def num_batches(self) -> int:
        """Global batches of the target; every stream lasts as long."""
        whole = self.epochs * self.plans["target"].num_batches
        return whole if self.max_batches is None else min(whole, self.max_batches)

    def epochs_of(self, domain: str) -> range:
        return range(-(-self.num_batches // self.plans[domain].num_batches))


def draw_scenario(draw: np.random.Generator) -> Scenario:
    plans = {}
    for domain in ("target", "source")[: draw.integers(1, 3)]:
        files = [draw.integers(1, 30, size=draw.integers(1, 5)) for _ in range(draw.integers(1, 6))]
        manifest = Manifest(
            tuple(f"{domain}-{index}" for index in range(len(files))),
            np.repeat(np.arange(len(files), dtype=np.int32), [len(file) for file in files]),
            np.concatenate([np.arange(len(file), dtype=np.int32) for file in files]),
            np.concatenate(files).astype(np.int64),
        )
        window, together = int(draw.integers(1, 5)), int(draw.integers(1, 4))
        plans[domain] = FragmentPlan(manifest, int(draw.integers(4, 25)), window, together, bool(draw.integers(2)), int(draw.integers(9)))
    max_batches = int(draw.integers(1, 20)) if draw.random() < 0.25 else None
    return Scenario(
        plans, int(draw.integers(1, 4)), bool(draw.integers(2)), int(draw.integers(1, 6)), int(draw.integers(1, 4)), max_batches
    )


def check_counts(scenario: Scenario, counts: Counts) -> None:
    """Whole passes count every row once each, a last partial one counts some rows once more."""
    for domain, plan in scenario.plans.items():
        num_rows = sum(plan.manifest.num_rows.tolist())
        passes, rest = divmod(scenario.num_batches, -(-num_rows // plan.batch_size))
        counted = counts[domain]
        assert len(counted) == num_rows
        assert counted.sum() == passes * num_rows + min(rest * plan.batch_size, num_rows), (domain, counted)
        assert (counted.min(), counted.max()) == (passes, passes + (rest > 0)), (domain, counted)


def window_rows(window) -> npt.NDArray[np.int64]:
    """int64 [2, rows]: fragment and row in reading order."""
    parts = [(np.full(part.num_rows, part.fragment), np.arange(part.start, part.stop)) for part in window.slices]
    return np.concatenate([np.stack(part) for part in parts], axis=1)


def numbers_of(plan: FragmentPlan, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    firsts = np.concatenate([[0], np.cumsum(plan.manifest.num_rows)])
    return firsts[rows[0]] + rows[1]


def arriving(scenario: Scenario, domain: str, cursor: bytes, world_size: int, draw: np.random.Generator) -> Iterator[Provenance]:
    """Micro-batches as ranks receive them in turn; out of order, tasks overtake each other."""
    plan = scenario.plans[domain]
    trained = Cursor.from_bytes(cursor, {domain: plan.manifest}).of(domain) if cursor else None
    remaining = plan.remaining(trained, scenario.epochs_of(domain), scenario.num_batches)
    num_served, num_parts = 0, 0
    waiting = iter([[*parts_of(window, plan, domain, world_size)] for window in remaining.windows()])
    running: list[list[Provenance]] = []
    while True:
        while len(running) < (1 if scenario.in_order else 3) and (parts := next(waiting, None)) is not None:
            running.append(parts)
        if not running:
            break
        part = running[int(draw.integers(len(running)))].pop(0)
        running = [parts for parts in running if parts]
        num_served, num_parts = num_served + int((part.status == STATUS_OK).sum()), num_parts + 1
        yield part
    assert (num_served, num_parts) == (remaining.num_rows, remaining.num_batches * world_size)


def parts_of(window, plan: FragmentPlan, domain: str, world_size: int) -> Iterator[Provenance]:
    rows = np.concatenate([window_rows(window), np.full((2, 1), -1)], axis=1)
    for chosen in micro_batches(window.left(plan.shuffle, plan.seed), plan.batch_size, world_size):
        fragment, row = rows[:, chosen].astype(np.int32)
        status = np.where(fragment >= 0, STATUS_OK, STATUS_PADDING).astype(np.int8)
        yield Provenance(domain, window.epoch, fragment, row, status)


def launch(uri: str, scenario: Scenario, draw: np.random.Generator, fuse: Fuse) -> Counts:
    """One life of a run: from the newest checkpoint to the end, or to a Crash."""
    storage, world_size = MortalStorage(uri, fuse), int(draw.integers(1, 4))
    owner, found = take_over(storage), newest(storage)
    manifests = {domain: plan.manifest for domain, plan in scenario.plans.items()}
    counts = {domain: np.zeros(plan.num_rows, dtype=np.int64) for domain, plan in scenario.plans.items()}
    saved, begun = read_cursor(storage, found), found.step if found else 0
    ranks = [Cursor(manifests) for _ in range(world_size)]
    parent = found.name if found else None
    if found:
        ranks[0] = Cursor.from_bytes(saved, manifests)
        for domain in counts:
            counts[domain] = np.frombuffer(storage.read_bytes(f"{CHECKPOINTS}/{found.name}/{domain}"), dtype=np.int64).copy()
    streams = [arriving(scenario, domain, saved, world_size, draw) for domain in scenario.plans]
    steps = zip_longest(*(zip(*[stream] * world_size, strict=True) for stream in streams))
    for step, domains in enumerate(steps, start=begun + 1):
        for parts in (parts for parts in domains if parts is not None):
            for rank, part in enumerate(parts):
                fuse.burn()
                real = part.status == STATUS_OK
                np.add.at(counts[part.domain], numbers_of(scenario.plans[part.domain], np.stack([part.fragment, part.row])[:, real]), 1)
                ranks[rank].add(part)
        if step % scenario.checkpoint_every == 0:
            parent = save(storage, owner, parent, scenario, step, counts, ranks, draw)
            ranks[1:] = [Cursor(manifests) for _ in ranks[1:]]
    for rank in ranks[1:]:
        ranks[0].merge(rank)
    assert {domain: ranks[0].num_rows(domain) for domain in counts} == {domain: int(count.sum()) for domain, count in counts.items()}
    return counts


def save(
    storage: Storage,
    owner: str,
    parent: str | None,
    scenario: Scenario,
    step: int,
    counts: Counts,
    ranks: list[Cursor],
    draw: np.random.Generator,
) -> str:
    manifests = {domain: plan.manifest for domain, plan in scenario.plans.items()}
    for rank in ranks[1:]:
        ranks[0].merge(Cursor.from_bytes(rank.to_bytes(), manifests))
    files = {domain: count.tobytes() for domain, count in counts.items()} | {CURSOR_FILE: ranks[0].to_bytes()}
    name = f"launch-{owner}/step-{step:04d}"
    for file in draw.permutation(list(files)).tolist():
        storage.write_bytes(f"{CHECKPOINTS}/{name}/{file}", files[file])
    sizes = {file: len(data) for file, data in files.items()}
    reported = Committed(name=name, step=step, world_size=len(ranks), cursor=hash_of(files[CURSOR_FILE]), files=sizes, best=None)
    for old in commit(storage, owner, reported, parent, bool(draw.integers(2)), scenario.num_kept):
        storage.delete_dir(f"{CHECKPOINTS}/{old}")
    return name


def lose_a_shard(uri: str, draw: np.random.Generator) -> None:
    """Deletes a file of the newest checkpoint, if there is an older one to fall back on."""
    storage = Storage(uri)
    found = newest(storage)
    if found is None:
        return
    file = storage.path(f"{CHECKPOINTS}/{found.name}/{draw.choice(sorted(found.files))}")
    kept = Path(file).read_bytes()
    Path(file).unlink()
    try:
        newest(storage)
    except RunError:
        Path(file).write_bytes(kept)


def run_seed(seed: int) -> int:
    """Runs one seed to its end; returns the number of launches.

    Raises:
        AssertionError: a row was counted too often or too seldom.
    """
    draw = np.random.default_rng(seed)
    scenario = draw_scenario(draw)
    # In memory where there is such a place: every commit is synced to its disk.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="raytrain-faults-", dir=memory) as uri:
        former = None
        for num_launches in range(1, MAX_LAUNCHES):
            # Later lives are longer, or a run that saves seldom would never end.
            fuse = Fuse(int(draw.integers(1, 60 * num_launches)))
            try:
                counts = launch(uri, scenario, draw, fuse)
                break
            except Crash:
                if former:
                    refuse_the_former(uri, former)
                former = owner_of(uri)
                if draw.random() < 0.3:
                    lose_a_shard(uri, draw)
        else:
            raise AssertionError(f"seed {seed}: no launch came through")
    try:
        check_counts(scenario, counts)
    except AssertionError as err:
        raise AssertionError(f"seed {seed} counted wrongly: {err}") from err
    return num_launches


def owner_of(uri: str) -> str | None:
    storage = Storage(uri)
    return storage.read_text(OWNER) if storage.exists(OWNER) else None


def refuse_the_former(uri: str, former: str) -> None:
    """A launch that outlived its successor's start must not commit."""
    if owner_of(uri) == former:
        return
    late = Committed(name="late", step=10**6, world_size=1, cursor="", files={}, best=None)
    try:
        commit(Storage(uri), former, late, None, False, 1)
    except RunError:
        return
    raise AssertionError("a launch that lost its run could commit")


def main(seeds: str = typer.Option("0:1000", help="first:last, the last left out")) -> None:
    first, last = map(int, seeds.split(":"))
    launches = [run_seed(seed) for seed in range(first, last)]
    sys.stdout.write(f"{len(launches)} seeds, {sum(launches)} launches, most {max(launches)}: every row counted exactly once an epoch\n")


if __name__ == "__main__":
    typer.run(main)
