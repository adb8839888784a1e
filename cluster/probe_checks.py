"""What a process with torch in it found out: FBGEMM, the dense network, the first batch of every stream."""

import json
from collections.abc import Iterator
from typing import Any

from cluster.apart import Outcome, run_apart
from cluster.checks import Check, Status, from_error
from raytrain.config import JobConfig
from raytrain.embeddings.config import INSTALL
from raytrain.machine import size

PROBE = "raytrain.training.probe"
TIMEOUT_S = 600.0
MAX_NAMES = 12
"""Features that are named; as-of features come in dozens."""
UNKNOWN_SHARE = 0.5
"""Of id 0 in a feature, above which the vocabulary looks like another data set's."""


def run_probe(job: JobConfig | None) -> Outcome:
    """Torch, TorchRec and FBGEMM; with a job its network and streams too. Takes the seconds that torch takes to load."""
    inputs = {} if job is None else {"job.json": json.dumps(job.model_dump(mode="json"))}
    return run_apart(PROBE, inputs, TIMEOUT_S)


def probe_checks(outcome: Outcome, job: JobConfig | None, needs_fbgemm: bool, available: int) -> Iterator[Check]:
    """One check a stage, and one for how the process ended if it did not end well.

    Args:
        available: bytes of memory on this machine.
    """
    for record in outcome.records:
        # The network's count is arithmetic for others.
        if "stage" in record and "num_dense" not in record:
            yield _check_stage(record, job, "fail" if needs_fbgemm else "warn", available)
    if outcome.ended:
        begun, done = ([record[key] for record in outcome.records if key in record] for key in ("begin", "stage"))
        at = next((name for name in begun if name not in done), "torch" if not begun else "its end")
        fix = INSTALL if at in ("fbgemm", "torch") else "Run the command that fails by itself and read what it prints."
        yield Check(at, "fail", f"the process {outcome.ended}: {outcome.last_words or 'it said nothing'}", fix)


def num_dense(outcome: Outcome) -> int:
    """Parameters of the dense network; 0 where nobody could count them."""
    return next((record["num_dense"] for record in outcome.records if "num_dense" in record), 0)


def _check_stage(record: dict[str, Any], job: JobConfig | None, fbgemm_severity: Status, available: int) -> Check:
    name = record["stage"]
    severity = fbgemm_severity if name == "fbgemm" else "fail"
    if "error" in record:
        check = from_error(name, record["error"], severity)
        # Names the command, whatever library it was that failed.
        return Check(name, severity, f"{check.found} {check.fix}".strip(), INSTALL) if name == "fbgemm" else check
    if name == "torch":
        return _check_torch(record, job)
    if name == "fbgemm":
        return _check_fbgemm(record, severity)
    if name == "memory":
        return _check_memory(record, available)
    if name == "streams":
        steps = (f"{stream}: {steps:,} steps an epoch, {total:,} in all" for stream, (steps, total) in record["steps"].items())
        return Check("streams", "ok", "; ".join(steps))
    return check_batch(record)


def _check_memory(record: dict[str, Any], available: int) -> Check:
    """Of a plain baseline, which works in memory."""
    found = f"{record['num_rows']:,} samples and history events = at most {size(record['num_bytes'])}, and {size(available)} are available"
    if record["num_bytes"] > available:
        return Check("memory", "warn", found, "Free memory, prepare fewer rows, or train a model that streams (din).")
    return Check("memory", "ok", found)


def _check_torch(record: dict[str, Any], job: JobConfig | None) -> Check:
    built = f"CUDA {record['cuda']}, {record['num_gpus']} GPU(s)" if record["cuda"] else "CPU alone"
    found = f"torch {record['version']} loads, built for {built}"
    if job is not None and job.scaling.use_gpu and not record["num_gpus"]:
        return Check("torch", "fail", f"{found}, and scaling.use_gpu=true", "Install the CUDA build: pip install 'raytrain[cuda]'.")
    return Check("torch", "ok", found)


def _check_fbgemm(record: dict[str, Any], severity: Status) -> Check:
    if not record["moved"]:
        return Check("fbgemm", severity, "a table's rows did not move by its gradient", INSTALL)
    return Check("fbgemm", "ok", "looked rows up and updated them inside backward")


def check_batch(record: dict[str, Any]) -> Check:
    """The first batch of a stream; a warning where it can be decoded and yet teaches nothing."""
    rate, num_rows, num_bad = record["label_rate"], record["num_rows"], record["num_bad"]
    lines = [f"{num_rows:,} rows, {num_bad:,} bad; label rate {'undefined' if rate is None else f'{rate:.3f}'}"]
    lines.append("; ".join(f"{shape} {_listed(names)}" for shape, names in _by_shape(record).items()))
    unknown = [f"{name} {ids['unknown_share']:.1%}" for name, ids in record["ids"].items() if ids["unknown_share"]]
    lines.append(f"share of id 0: {', '.join([*unknown, 'none in the others' if unknown else 'none'])}")
    for name, history in record["histories"].items():
        low, middle, high = history["lengths"]
        lines.append(f"history of {name} {history['shape']}: {low} to {high} events, median {middle}")
    for row in record["rows"]:
        lines.append(", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in row.items()))
    doubts = list(_doubts(record))
    fix = "Look at the data set: its vocabularies, its labels, and whether samples and histories name the same users." if doubts else ""
    return Check(record["stage"], "warn" if doubts else "ok", "\n".join([*doubts, *lines]), fix)


def _by_shape(record: dict[str, Any]) -> dict[str, list[str]]:
    """Shape -> the features that have it."""
    shapes = {name: ids["shape"] for name, ids in record["ids"].items()} | record["dense"]
    found: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        found.setdefault(str(shape), []).append(name)
    return found


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _doubts(record: dict[str, Any]) -> Iterator[str]:
    if record["num_bad"]:
        yield f"{record['num_bad']:,} rows would be quarantined"
    if record["label_rate"] in (0.0, 1.0):
        yield "every label is the same"
    for name, ids in record["ids"].items():
        if ids["unknown_share"] > UNKNOWN_SHARE:
            yield f"{ids['unknown_share']:.1%} of {name} are id 0, unknown"
    for name, history in record["histories"].items():
        if history["lengths"][2] == 0:
            yield f"every history of {name} is empty"
