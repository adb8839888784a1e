"""From the workers to the person in front of the screen: progress lines, metrics.jsonl, TensorBoard.

Only the driver writes these files.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from raytrain.storage import Storage

FLUSH_INTERVAL_S = 10.0
METRIC_NAMES = (
    "auc",
    "gauc",
    "logloss",
    "pcoc",
    "ne",
    "norm_gini",
    "spearman",
    "pay_auc",
    "total_ratio",
    "vanilla_norm_gini",
    "vanilla_auc",
)
METRICS_FILE = "metrics.jsonl"
MAX_BOARD_SLICES = 50
REPEATED = ("train", "valid", "checkpoint", "gain")


class Progress:
    """Prints the records that it is given until ``close``, and stores them where ``storage`` is given."""

    def __init__(self, storage: Storage | None, tensorboard: bool, console: Console) -> None:
        self.records: list[dict[str, Any]] = _read_records(storage)
        self._storage = storage
        self._console = console
        self._started = self._flushed = time.monotonic()
        # TensorBoard's writer appends to a local file; object stores cannot be appended to.
        local = storage is not None and isinstance(storage.filesystem, LocalFileSystem)
        self._board = SummaryWriter(str(Path(storage.root) / "tensorboard")) if storage and tensorboard and local else None
        self._board_slices: list[int] = []

    def add(self, record: dict[str, Any]) -> None:
        """The next record of rank 0."""
        if record["kind"] == "start":
            # What came after the checkpoint is done again.
            self.records = [old for old in self.records if old["kind"] not in REPEATED or old["step"] <= record["step"]]
        self.records.append(record)
        line = describe(record, time.monotonic() - self._started)
        if line:
            self._console.print(line, highlight=False, markup=False)
        if self._board is not None and "step" in record:
            for name, value in scalars(record, self._board_slices).items():
                self._board.add_scalar(name, value, record["step"])
        # What a checkpoint includes should outlive the driver as it does.
        if record["kind"] == "checkpoint":
            self._flush()
        self.tick()

    def tick(self) -> None:
        """Called now and then: writes what has not been written for a while."""
        if time.monotonic() - self._flushed > FLUSH_INTERVAL_S:
            self._flush()

    def close(self) -> None:
        """Writes everything out."""
        self._flush()
        if self._board is not None:
            self._board.close()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._storage is None:
            return
        try:
            self._storage.write_text(METRICS_FILE, "".join(json.dumps(record) + "\n" for record in self.records))
        except OSError as err:
            # A hiccup of the store must not end the run's progress; every flush writes all records again.
            self._console.print(f"metrics.jsonl could not be written ({err}); trying again", style="yellow", markup=False)


def describe(record: dict[str, Any], elapsed_s: float) -> str:
    """One line a person can read, or "" for a record that is only stored."""
    describe_kind: dict[str, Callable[[dict[str, Any], float], str]] = {
        "start": _start_line,
        "train": _train_line,
        "valid": _valid_line,
        "checkpoint": _checkpoint_line,
        "outcome": _outcome_line,
        "warning": lambda warning, _: f"warning: {warning['text']}",
        "test": _test_line,
    }
    kind = describe_kind.get(record["kind"])
    return kind(record, elapsed_s) if kind else ""


def scalars(record: dict[str, Any], slices: list[int]) -> dict[str, float]:
    """What TensorBoard draws of a record: its floats, and of the gain ledger each slice's gain and accepted share since the start.

    ``slices`` keeps which are drawn and grows up to MAX_BOARD_SLICES, the largest first, so that no line breaks off.
    """
    found = {f"{record['kind']}/{name}": value for name, value in record.items() if isinstance(value, float)}
    if record["kind"] != "gain":
        return found
    place = {number: index for index, number in enumerate(record["slice"])}
    largest = sorted(place, key=lambda number: -record["volume"][place[number]])
    new = [number for number in largest if number not in slices]
    slices += new[: MAX_BOARD_SLICES - len(slices)]
    for number in slices:
        if number not in place:
            continue
        gain, accepted, volume = (record[name][place[number]] for name in ("gain", "accepted", "volume"))
        found |= {} if gain is None else {f"gain_of_slice/{number}": gain}
        found[f"accepted_of_slice/{number}"] = accepted / volume
    return found


def clock(seconds: float) -> str:
    """h:mm:ss"""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _train_line(record: dict[str, Any], elapsed_s: float) -> str:
    left_s = (record["num_steps"] - record["step"]) * record["step_s"]
    # Where a model adds losses of its own, each by its name: the click's is what validation's log loss compares with.
    losses = {name.removeprefix("model/"): value for name, value in record.items() if name.startswith("model/") and name.endswith("loss")}
    shown = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in (losses or {"loss": record["loss"]}).items())
    return (
        f"step {record['step']:>6}/{record['num_steps']}  epoch {record['epoch']:.2f}  {shown}  "
        f"{record['samples_per_s']:>8,.0f} samples/s  data wait {record['data_wait_share']:.0%}  elapsed {clock(elapsed_s)}  "
        f"left <= {clock(left_s)}"
    )


def _start_line(record: dict[str, Any], _: float) -> str:
    return f"going on from step {record['step']} on {record['world_size']} worker(s)" if record["step"] else ""


def _checkpoint_line(record: dict[str, Any], _: float) -> str:
    return f"saved  step {record['step']}  {record['mib']:,.1f} MiB"


def _outcome_line(record: dict[str, Any], _: float) -> str:
    stopped = f"stopped early at step {record['num_steps']}; " if record["stopped_early"] else ""
    return f"{stopped}the model is the one of step {record['best_step']}"


def _valid_line(record: dict[str, Any], _: float) -> str:
    return f"valid  step {record['step']}  {_metrics(record)}{'  best so far' if record['best'] else ''}"


def _test_line(record: dict[str, Any], _: float) -> str:
    return f"test   {record['domain']}  {_metrics(record)}"


def _metrics(record: dict[str, Any]) -> str:
    return "  ".join(f"{name} {record[name]:.4f}" for name in METRIC_NAMES if name in record)


def _read_records(storage: Storage | None) -> list[dict[str, Any]]:
    """What earlier launches of the run have written; a torn last line is left out."""
    if storage is None or not storage.exists(METRICS_FILE):
        return []
    lines = storage.read_text(METRICS_FILE).splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
