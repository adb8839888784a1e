"""What a roll leaves behind: a manifest for each finished stage. Torch-free.

A stage is finished once ``manifest.json`` stands in its run directory; it is written last and whole. It names its parents by the
hash of their manifests, so the one of a served model vouches for all that it was made from.
"""

import hashlib
import json
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from pipelines.roll_config import Kind
from pipelines.roll_stage import STAGES, PlannedStage
from raytrain.config import DaySpan
from raytrain.data.contract import Contract
from raytrain.errors import ConfigError, RunError
from raytrain.json_text import finite
from raytrain.settings import Section
from raytrain.storage import Storage

MANIFEST = "manifest.json"


class Manifest(Section):
    """A finished stage."""

    version: NonNegativeInt = 1
    name: str
    kind: Kind
    day: date
    """The first day that it may serve"""
    digest: str
    """Of the job, and of the parents'"""
    train: DaySpan
    data_until: date
    """No row of this day or a later one had a part in it, parents included"""
    parents: dict[str, str]
    """Name -> hash of its manifest"""
    data: dict[str, str]
    """Day -> hash of the rows that it was trained on"""
    contract: str
    """Hash of the data set's tables and features"""
    code: str
    """Hash of raytrain's source"""
    config: dict[str, Any]
    result: dict[str, Any]
    """Rows, steps, metrics"""
    finished_at: str


class RollStore:
    """The directory of a roll."""

    def __init__(self, directory: str) -> None:
        self.storage = Storage(directory)

    def run(self, planned: PlannedStage) -> Storage:
        """The stage's run directory."""
        return Storage(self.storage.join(f"{STAGES}/{planned.name}"))

    def is_finished(self, planned: PlannedStage) -> bool:
        """Whether there is a manifest, be it sound or not."""
        return self.run(planned).exists(MANIFEST)

    def read(self, name: str) -> tuple[Manifest, str] | None:
        """A stage's manifest with its hash; None where the stage is not finished.

        Raises:
            RunError: it is no manifest.
        """
        path = f"{STAGES}/{name}/{MANIFEST}"
        try:
            text = self.storage.read_text(path)
        except FileNotFoundError:
            return None
        try:
            return Manifest.parse(json.loads(text), self.storage.join(path)), hash_of(text)
        except (json.JSONDecodeError, ConfigError) as err:
            raise RunError(
                f"{self.storage.join(path)} has to be what a roll wrote. Received: {err}. Restore it, or delete {STAGES}/{name} to train "
                "that stage, and what was made from it, anew."
            ) from None

    def parents(self, planned: PlannedStage) -> dict[str, tuple[Manifest, str]]:
        """The manifests of a stage's parents.

        Raises:
            RunError: one is gone, or has seen rows of the stage's day.
        """
        found = {}
        for parent in planned.parents:
            read = self.read(parent.name)
            if read is None or not self.run(parent).exists("result.json"):
                raise RunError(
                    f"A stage is made from finished parents. Received: {planned.name}, whose parent {parent.name} is not whole in "
                    f"{self.storage.uri}. Roll again: what is missing is trained anew."
                )
            if read[0].data_until > planned.stage.day:
                raise RunError(
                    f"A stage may not be made from rows of the day that it serves, or later. Received: {planned.name}, whose parent "
                    f"{parent.name} has seen days up to {read[0].data_until}. Delete that parent."
                )
            found[parent.name] = read
        return found

    def commit(self, planned: PlannedStage, contract: Contract, result: dict[str, Any]) -> Manifest:
        """Writes the manifest of a stage that has been trained."""
        parents, span = self.parents(planned), planned.stage.train
        manifest = Manifest(
            name=planned.name,
            kind=planned.stage.kind,
            day=planned.stage.day,
            digest=planned.digest,
            train=span,
            data_until=max([span.stop, *(parent.data_until for parent, _ in parents.values())]),
            parents={name: digest for name, (_, digest) in parents.items()},
            data=data_hashes(contract, planned),
            contract=schema_hash(contract),
            code=code_hash(),
            config=planned.job.model_dump(mode="json"),
            result=finite(result),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.run(planned).write_text(MANIFEST, json.dumps(manifest.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
        return manifest


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_hash() -> str:
    """Of the source of raytrain and pipelines as they are run: a working tree that was packed for a cluster has no version."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(file for package in ("raytrain", "pipelines") for file in (root / package).rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def data_hashes(contract: Contract, planned: PlannedStage) -> dict[str, str]:
    """Day -> what its rows are known by, of the days that the stage is trained on."""
    domain = contract.domains[str(planned.job.data.domain)]
    span = planned.stage.train
    wanted = {day: split for day, split in domain.days.items() if span.start <= date.fromisoformat(day) < span.stop}
    return {day: split.content_hash or f"{split.num_rows} rows, {split.num_positives} positive" for day, split in sorted(wanted.items())}


def schema_hash(contract: Contract) -> str:
    """Of what two data sets have in common if models of one can read the other; means and spreads of dense features aside."""
    features = [feature.model_copy(update={"mean": 0.0, "std": 1.0}).model_dump(mode="json") for feature in contract.features]
    tables = {name: table.model_dump(mode="json") for name, table in contract.tables.items()}
    return hash_of(json.dumps([tables, features], sort_keys=True))
