"""``python -m raytrain.training.probe OUTPUT [JOB]``: tries what only torch can tell, in a process that may die of it.

The cluster's preflight starts it: a library built for another torch can end a process without a Python error. OUTPUT gets
two lines of JSON a stage: {"begin": name} before it, then {"stage": name, ...figures} or {"stage": name, "error": text}.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.data.days import contract_of
from raytrain.data.micro_batches import local_micro_batches
from raytrain.data.provenance import STATUS_PADDING, STATUS_QUARANTINED
from raytrain.data.stream import StreamSpec
from raytrain.embeddings.config import TableConfig, TableOptimizer
from raytrain.errors import RaytrainError
from raytrain.models.declared import DECLARED, declared_histories
from raytrain.training.parallel import World
from raytrain.training.process import quieten
from raytrain.training.specs import scored_specs, training_specs

NUM_SHOWN_ROWS = 3
Figures = dict[str, Any]
Stage = tuple[str, Callable[[], Figures]]


def main(output: str, job_file: str | None = None) -> None:
    """Runs every stage, whatever becomes of the others."""
    quieten()
    with Path(output).open("w", encoding="utf-8") as file:
        for name, run in _stages(job_file):
            # Written first: a process that dies leaves the name of what killed it.
            print(json.dumps({"begin": name}), file=file, flush=True)
            print(json.dumps({"stage": name, **_attempt(run)}), file=file, flush=True)


def probe_torch() -> Figures:
    """Its version, the CUDA it was built for (null: none), the GPUs it can use."""
    return {"version": torch.__version__, "cuda": torch.version.cuda, "num_gpus": torch.cuda.device_count()}


def probe_fbgemm() -> Figures:
    """A lookup and a fused update of a table of eight rows, by the path that a worker takes.

    Raises:
        TablesError: torchrec or FBGEMM is missing, of another version, or does not load.
    """
    from raytrain.embeddings.sharded import ShardedTables

    World.alone()
    tables = ShardedTables([TableConfig("probe", 8, 4, features=("probe",))], TableOptimizer("rowwise_adagrad", 0.1), seed=0)
    zeros = torch.zeros(2, dtype=torch.long)
    batch = Batch({"probe": torch.tensor([1, 2])}, {}, {}, torch.zeros(2), torch.ones(2), zeros, zeros, zeros)
    before = tables(batch)["probe"].of("probe")
    before.sum().backward()  # type: ignore[no-untyped-call]
    return {"moved": bool((tables(batch)["probe"].of("probe") < before).all())}


def probe_network(job: JobConfig, contract: Contract) -> Figures:
    """Parameters of the dense network."""
    from raytrain.training.label_facts import read_facts
    from raytrain.training.loop import build_network

    network = build_network(job, contract, read_facts(job, contract))
    return {"num_dense": sum(parameter.numel() for parameter in network.parameters())}


def probe_memory(job: JobConfig, contract: Contract) -> Figures:
    """What a plain baseline would keep in memory.

    Raises:
        ContractError: the model's rows are not there, or of other labels.
        ResourceError: more than ``model.max_memory_mib``.
    """
    from raytrain.training.tabular import refuse_other_labels
    from raytrain.training.tabular_rows import planned_memory, planned_splits

    refuse_other_labels(job, contract)
    contract = contract.without_as_of()
    asked = [(contract.target, split) for split in ("train", "valid")]
    num_rows, row_bytes = planned_memory(job, contract, planned_splits(job, contract, asked, fitting=True))
    return {"num_bytes": num_rows * row_bytes, "num_rows": num_rows}


def probe_streams(job: JobConfig, contract: Contract, found: list[StreamSpec]) -> Figures:
    """Appends every stream of a run to ``found``, planned as the driver would; steps of an epoch, and of the run, by name."""
    histories = declared_histories(job, contract) if job.model.name in DECLARED else ()
    found += training_specs(job, contract, histories, "")
    valid, test = scored_specs(job, contract, histories, "")
    found += [*([valid] if valid else []), *test]
    return {"steps": {spec.name: [spec.plan.num_batches, spec.total_batches] for spec in found}}


def probe_batch(spec: StreamSpec) -> Figures:
    """The first global batch of a stream, read, joined with its histories and decoded as one rank would get it."""
    # A window of one batch: a worker's own would read as many batches of rows as window_batches says.
    data = spec.data.model_copy(update={"window_batches": 1})
    batch = next(iter(local_micro_batches(replace(spec, data=data, quarantine_path=None).lasting((0,), 1))))
    status = batch.provenance[0].status
    num_rows, good = int((status != STATUS_PADDING).sum()), batch.weight > 0
    shown = range(min(NUM_SHOWN_ROWS, num_rows))
    return {
        "num_rows": num_rows,
        "num_bad": int((status == STATUS_QUARANTINED).sum()),
        "label_rate": float(batch.label[good].mean()) if bool(good.any()) else None,
        "ids": {name: {"shape": list(ids.shape), "unknown_share": _unknown_share(ids[good])} for name, ids in batch.ids.items()},
        "dense": {name: list(values.shape) for name, values in batch.dense.items()},
        "histories": {
            name: {"shape": list(sequence.items.shape), "lengths": _span(sequence.lengths[good].tolist())}
            for name, sequence in batch.histories.items()
        },
        "rows": [{"label": float(batch.label[row])} | {name: ids[row].tolist() for name, ids in batch.ids.items()} for row in shown],
    }


def _stages(job_file: str | None) -> Iterator[Stage]:
    yield "torch", probe_torch
    yield "fbgemm", probe_fbgemm
    if job_file is None:
        return
    job = JobConfig.parse(json.loads(Path(job_file).read_text(encoding="utf-8")), job_file)
    contract = contract_of(job.data)
    if job.model.name in DECLARED:
        yield "network", partial(probe_network, job, contract)
    else:
        yield "memory", partial(probe_memory, job, contract)
    specs: list[StreamSpec] = []
    yield "streams", partial(probe_streams, job, contract, specs)
    for spec in specs:
        yield spec.name, partial(probe_batch, spec)


def _attempt(run: Callable[[], Figures]) -> Figures:
    try:
        return run()
    except RaytrainError as err:
        return {"error": str(err)}
    # Whatever it is, the next stage is worth trying.
    except Exception as err:
        return {"error": f"{type(err).__name__}: {(str(err).splitlines() or [''])[0]}"}


def _unknown_share(ids: torch.Tensor) -> float:
    """Share of rows whose id is 0; of a multi-valued feature, whose ids all are."""
    return float((ids == 0).view(len(ids), -1).all(dim=1).float().mean())


def _span(lengths: list[int]) -> list[int]:
    """Shortest, median and longest."""
    ordered = sorted(lengths) or [0]
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


if __name__ == "__main__":
    main(*sys.argv[1:])
