"""A data set kept by day, rolls over it, and a train function that leaves what a run leaves."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from pipelines.roll_config import Roll, load_roll
from pipelines.roll_run import Outcome, RollRunner
from pipelines.roll_stage import STAGES, PlannedStage, plan_roll
from pipelines.roll_store import RollStore
from pipelines.runs import OwnProcess
from raytrain.config import JobConfig
from raytrain.data.contract import Contract, load_contract, save_contract
from raytrain.data.days import contract_of
from raytrain.data.manifest import read_manifest
from raytrain.embeddings.config import TableConfig, TableOptimizer
from raytrain.embeddings.local import LocalTables
from raytrain.storage import Storage
from raytrain.training.checkpoint import save_tables
from tests.data.build import FIRST_DAY

DIM = 4


def day(number: int) -> date:
    """Of the data set, the first being 0."""
    return FIRST_DAY + timedelta(days=number)


def roll_values(data_path: str, output: str, first: int, last: int, **calendar: Any) -> dict[str, Any]:
    """A roll file of tiny models; ``calendar`` adds to its section."""
    return {
        "name": "toy",
        "calendar": {"first_day": day(first), "last_day": day(last), **calendar},
        "base": {"data": {"path": data_path, "batch_size": 8}},
        "tpm": {"model": {"name": "tpm"}, "tables": {"dim": DIM}},
        "cpm": {"model": {"name": "ecdctr", "months": 2, "month_dim": DIM}},
        "actr": {"model": {"name": "ecdctr", "months": 2, "month_dim": DIM}},
        "output": output,
        "num_resamples": 20,
    }


def write_roll(directory: Path, values: dict[str, Any]) -> str:
    path = directory / "roll.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return str(path)


def quiet() -> Console:
    """Its output is ``.file.getvalue()``."""
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def stage_of(values: dict[str, Any], kind: str, number: int) -> PlannedStage:
    """The stage of a kind and a day."""
    plan = plan_roll("full", Roll.parse(values, "test"))
    return next(planned for planned in plan.stages if planned.stage.kind == kind and planned.stage.day == day(number))


def store_of(values: dict[str, Any]) -> RollStore:
    return RollStore(str(values["output"]))


@dataclass
class FakeTrain:
    """Writes what a run leaves, and remembers the stages it ran in order."""

    raises: dict[str, BaseException] = field(default_factory=dict)
    """Kind and day of a stage -> what its training ends with, after its directory was begun"""
    before: Callable[[str], None] = lambda stage: None
    """Called with kind and day before a run is finished"""
    wall_s: float = 2.0
    ran: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)

    def __call__(self, job: JobConfig, console: Console, resume: bool) -> dict[str, Any]:
        contract, domain = contract_of(job.data), str(job.data.domain)
        read_manifest(contract, job.data.path, domain, "train")
        run = Storage(f"{job.run.storage_path}/{job.run.name}")
        stage = str(job.run.name)[:-9]
        self.ran.append(stage)
        if resume:
            assert load_contract(run.uri) == contract
            self.resumed.append(stage)
            if run.exists("result.json"):
                return dict(json.loads(run.read_text("result.json")))
        assert resume == run.exists("config.yaml")
        run.write_text("config.yaml", yaml.safe_dump(job.model_dump(mode="json")))
        save_contract(contract, run.uri)
        if stage in self.raises:
            raise self.raises[stage]
        if job.model.name == "tpm":
            write_snapshot(run, contract, seed=int(stage[-5:-3]))
        result = {
            "rows_trained": {domain: contract.domains[domain].splits["train"].num_rows},
            "num_steps": 3,
            "wall_s": self.wall_s,
            "best_checkpoint": "checkpoint-3",
            "test": write_predictions(run, contract, domain, job) if job.data.days and job.data.days.test else {},
        }
        self.before(stage)
        run.write_text("result.json", json.dumps(result))
        return result | {"train_samples_per_s": float("nan")}


def write_snapshot(run: Storage, contract: Contract, seed: int) -> None:
    """Real tables, as of a finished run of tpm."""
    configs = [TableConfig(name, contract.tables[name].num_rows, DIM, (name,)) for name in ("user", "item")]
    directory = Path(run.root) / "snapshot"
    directory.mkdir(parents=True, exist_ok=True)
    save_tables(directory, LocalTables(configs, TableOptimizer("sgd", 0.1), seed), ["user.weight", "item.weight"])
    features = {
        config.name: {"table": config.name, "num_rows": config.num_rows, "dim": DIM, "num_seen_rows": config.num_rows} for config in configs
    }
    run.write_text("snapshot/snapshot.json", json.dumps({"features": features}))


def write_predictions(run: Storage, contract: Contract, domain: str, job: JobConfig) -> dict[str, dict[str, float]]:
    """Of the rows of the test day: the label with noise, less of it where the job reads more months."""
    files = read_manifest(contract, job.data.path, domain, "test").files
    months = len(job.start.snapshots)
    for number, file in enumerate(files):
        rows = pq.read_table(f"{job.data.path}/{file}", columns=["user", "time", "label"])
        noise = np.random.default_rng((job.seed, number)).normal(size=rows.num_rows)
        score = rows["label"].to_numpy() * (1 + 3 * months) + noise
        table = pa.table(
            {
                "fragment": np.full(rows.num_rows, number, np.int32),
                "row": np.arange(rows.num_rows, dtype=np.int32),
                "group": rows["user"].to_numpy().astype(np.int64),
                "time": rows["time"],
                "label": rows["label"],
                "prediction": (1 / (1 + np.exp(1 - score))).astype(np.float32),
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        run.write_bytes(f"predictions/test/{domain}-part-{number:05d}.parquet", buffer.getvalue())
    return {domain: {"gauc": float("nan"), "num_rows": float(contract.domains[domain].splits["test"].num_rows)}}


class FreeLease:
    """Of a directory that nobody else wants."""

    def check(self) -> None:
        return

    def check_known(self) -> None:
        return


def roll(values: dict[str, Any], train: FakeTrain, *overrides: str, console: Console | None = None) -> list[Outcome]:
    """Runs every stage of every arm once, as ``run_roll`` does, without its lease and its report."""
    rolls = load_roll(write_roll(Path(str(values["output"])).parent, values), overrides)
    plans = [plan_roll(name, arm) for name, arm in rolls.items()]
    screen = console or quiet()
    runner = RollRunner(store_of(values), plans[0].contract, screen, OwnProcess(train, screen))
    runner.run(plans, FreeLease())
    return list(runner.outcomes.values())


def failed(outcomes: list[Outcome]) -> dict[str, str]:
    """Kind and day of each stage that is not finished -> its state."""
    return {outcome.planned.stage.name: outcome.state for outcome in outcomes if outcome.state != "finished"}


def error_of(outcomes: list[Outcome], stage: str) -> str:
    return str(next(outcome.error for outcome in outcomes if outcome.planned.stage.name == stage))


def change_day(data_path: str, domain: str, number: int, **changes: Any) -> None:
    """Changes the contract's entry of a day; ``gone=True`` takes it out."""
    contract = load_contract(data_path)
    days, name = dict(contract.domains[domain].days), day(number).isoformat()
    found = days.pop(name)
    if not changes.pop("gone", False):
        days[name] = found.model_copy(update=changes)
    own = contract.domains[domain].model_copy(update={"days": days})
    save_contract(contract.model_copy(update={"domains": {**contract.domains, domain: own}}), data_path)


def run_directory(values: dict[str, Any], kind: str, number: int) -> Path:
    return Path(str(values["output"])) / STAGES / stage_of(values, kind, number).name
