"""What is known of each trial, one JSON file each, written as it happens: all that a sweep needs to go on after a kill."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from raytrain.json_text import json_text
from raytrain.storage import Storage, masked, retried
from tuning.space import Params

Status = Literal["running", "finished", "stopped", "failed"]
"""stopped: by successive halving. running: now, or when the sweep was killed."""


@dataclass
class Evaluation:
    """One look at validation, of the first seed's run."""

    number: int
    """From 1 on; over a restart of the sweep it goes on."""
    epoch: float
    value: float
    """The first objective, the best so far."""


@dataclass
class TrialRecord:
    """A trial as trials/<name>.json holds it."""

    number: int
    params: Params
    status: Status = "running"
    values: dict[str, float] = field(default_factory=dict)
    """Objective -> mean over seeds; of a trial that was stopped, what it had come to."""
    seed_values: list[dict[str, float]] = field(default_factory=list)
    """Of each seed that finished."""
    evaluations: list[Evaluation] = field(default_factory=list)
    wall_s: float = 0.0
    error: str = ""

    @property
    def name(self) -> str:
        return trial_name(self.number)

    @property
    def value(self) -> float:
        """The first objective; NaN while there is none."""
        return next(iter(self.values.values()), math.nan)

    def to_json(self) -> str:
        return json_text(asdict(self) | {"error": masked(self.error)})

    @staticmethod
    def from_json(text: str) -> "TrialRecord":
        values = json.loads(text)
        values["values"] = _numbers(values["values"])
        values["seed_values"] = [_numbers(found) for found in values["seed_values"]]
        values["evaluations"] = [Evaluation(**_numbers(one)) for one in values["evaluations"]]
        return TrialRecord(**values)


class TrialLog:
    """The records of a sweep directory."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        files = storage.list_files("trials", ".json")
        self.records = {record.number: record for record in (TrialRecord.from_json(storage.read_text(file)) for file in files)}

    def write(self, record: TrialRecord) -> None:
        self.records[record.number] = record
        retried(lambda: self._storage.write_text(f"trials/{record.name}.json", record.to_json()))

    def with_status(self, *statuses: Status) -> list[TrialRecord]:
        """In the order of their numbers."""
        return [self.records[number] for number in sorted(self.records) if self.records[number].status in statuses]


def trial_name(number: int) -> str:
    return f"trial-{number:04d}"


def ranked(records: Sequence[TrialRecord], higher_is_better: bool) -> list[TrialRecord]:
    """Finished trials, best first; of equals the earlier."""
    sign = 1.0 if higher_is_better else -1.0
    done = [record for record in records if record.status == "finished" and not math.isnan(record.value)]
    return sorted(done, key=lambda record: (-sign * record.value, record.number))


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}
