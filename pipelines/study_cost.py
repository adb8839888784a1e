"""What each arm of a study costs: rounds over the networks in turn, every measurement a process of its own.

Measurements lie in ``cost/<variant>.json`` beside the cells. Like a cell, a measurement is kept as long as the arm's job, the
data set's content and what ``cost:`` asks are the same; more rounds add to it.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from pipelines.bench_process import TIMEOUT_S, run_alone
from pipelines.bench_summary import Spread
from pipelines.study_cost_plan import CostPlan, CostRequest, MeasuredCost
from pipelines.study_plan import Cell
from raytrain.adsnet_config import AdsnetModel
from raytrain.errors import ConfigError, RunError
from raytrain.models.declared import DECLARED
from raytrain.storage import Storage, masked

MeasureCost = Callable[[CostRequest], MeasuredCost]
Record = dict[str, Any]


def costed_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The first cell of every variant that is a network.

    Raises:
        ConfigError: one of them trains on a GPU.
    """
    first = {cell.variant: cell for cell in reversed(cells) if cell.job.model.name in DECLARED}
    for cell in first.values():
        if cell.job.scaling.use_gpu:
            raise ConfigError(
                f"cost measures one CPU process. Received: scaling.use_gpu=true in arm {cell.variant}. Set it to false, or leave cost out."
            )
    return [cell for cell in cells if first.get(cell.variant) is cell]


def measure_costs(
    plan: CostPlan, cells: Sequence[Cell], storage: Storage, console: Console, measure: MeasureCost | None = None
) -> dict[str, Any]:
    """Measures what is missing, round by round, and sums up.

    Args:
        measure: makes one measurement; in a process of its own when None.

    Returns:
        The ``cost`` of result.json: what was asked, reference, arms (None where there is none) and failed, as for cells.
        of_reference is the speed's share of the reference's, the first arm measured, in the same round of the same call.
    """
    costed, call = costed_cells(cells), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    records = {cell.variant: _measured_earlier(cell, plan, storage) for cell in costed}
    left = [
        (number, cell)
        for number in range(1, plan.num_rounds + 1)
        for cell in costed
        if number not in [made["round"] for made in records[cell.variant]["rounds"]]
    ]
    num_kept = plan.num_rounds * len(costed) - len(left)
    console.print(f"cost of {len(costed)} arms: {num_kept} measurements made earlier, {len(left)} to make", highlight=False)
    errors: dict[str, str] = {}
    for position, (number, cell) in enumerate(left, start=1):
        if cell.variant in errors:
            continue
        heading = f"cost {position} of {len(left)}: {cell.variant}, round {number} of {plan.num_rounds} ..."
        console.print(heading, end=" ", markup=False, highlight=False)
        conditions = {"round": number, "call": call, "num_cpus": os.cpu_count(), "load": os.getloadavg()[0]}
        try:
            measured = (measure or _measure_alone)(_request(cell, plan))
        except RunError as err:
            errors[cell.variant] = masked(str(err))
            console.print(f"failed\n{errors[cell.variant]}", style="red", markup=False, highlight=False)
            continue
        record = records[cell.variant]
        record["rounds"].append(conditions | measured.model_dump(mode="json"))
        storage.write_text(_file(cell), json.dumps(record, indent=2) + "\n")
        console.print(f"{measured.samples_per_s:,.0f} samples/s, {measured.request_ms[0]:,.1f} ms a request", highlight=False)
    rounds = {variant: record["rounds"] for variant, record in records.items() if record["rounds"]}
    reference = next(iter(rounds), None)
    return {
        **plan.model_dump(mode="json"),
        "reference": reference,
        "arms": {
            variant: _summary(rounds[variant], rounds[str(reference)]) if variant in rounds else None
            for variant in dict.fromkeys(cell.variant for cell in cells)
        },
        "failed": [{"cell": f"cost of {variant}", "error": error} for variant, error in errors.items()],
    }


def _measure_alone(request: CostRequest) -> MeasuredCost:
    with TemporaryDirectory(prefix="raytrain-cost-") as folder:
        directory, plan = Path(folder) / "stage", request.plan
        timeout_s = TIMEOUT_S + 10 * plan.seconds
        return run_alone("pipelines.study_cost_stage", request, MeasuredCost, directory, plan.num_threads, timeout_s=timeout_s)


def _request(cell: Cell, plan: CostPlan) -> CostRequest:
    """The arm's job on one worker; what only sets how long it trains does not keep batches from being read.

    Of ADSNet's two stages the joint one is measured: its warmup is short, and by far the cheaper.
    """
    job = cell.job
    model = job.model.model_copy(update={"warmup_steps": 0}) if isinstance(job.model, AdsnetModel) else job.model
    data = job.data.model_copy(update={"batch_size": plan.batch_size or job.data.batch_size})
    training = job.training.model_copy(update={"max_steps": None})
    scaling = job.scaling.model_copy(update={"num_workers": 1, "threads_per_worker": plan.num_threads})
    return CostRequest(job=job.model_copy(update={"data": data, "model": model, "training": training, "scaling": scaling}), plan=plan)


def _measured_earlier(cell: Cell, plan: CostPlan, storage: Storage) -> Record:
    """The rounds that were asked for and made of the same job, by the same plan; a record without any where there are none."""
    fresh: Record = {"variant": cell.variant, "key": cell.key, "asked": plan.model_dump(mode="json", exclude={"num_rounds"}), "rounds": []}
    if not storage.exists(_file(cell)):
        return fresh
    found: Record = json.loads(storage.read_text(_file(cell)))
    return found if (found["key"], found["asked"]) == (fresh["key"], fresh["asked"]) else fresh


def _file(cell: Cell) -> str:
    return f"cost/{cell.variant}.json"


def _summary(rounds: Sequence[Record], reference: Sequence[Record]) -> dict[str, Any]:
    """Medians with the least and the most over rounds; what no round changes, as it is."""
    speeds = {(made["call"], made["round"]): made["samples_per_s"] for made in reference}
    shares = [made["samples_per_s"] / speeds[at] for made in rounds if (at := (made["call"], made["round"])) in speeds]
    fixed = ("batch_rows", "flops_per_sample", "num_dense_parameters", "table_mib", "num_cpus")
    return {
        "num_rounds": len(rounds),
        "samples_per_s": _spread([made["samples_per_s"] for made in rounds]),
        "of_reference": _spread(shares) if shares else None,
        "peak_rss_mib": _spread([made["peak_rss_mib"] for made in rounds]),
        "request_ms_p50": _spread([made["request_ms"][0] for made in rounds]),
        "request_ms_p95": _spread([made["request_ms"][1] for made in rounds]),
        "load": _spread([made["load"] for made in rounds]),
        **{name: rounds[-1][name] for name in fixed},
    }


def _spread(values: Sequence[float]) -> Mapping[str, float]:
    return asdict(Spread.of(values))
