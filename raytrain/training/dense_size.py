"""``python -m raytrain.training.dense_size OUTPUT JOB CONTRACT``: how large the dense network of a job is.

The capacity plan starts it in a process of its own, since building a network takes torch. OUTPUT gets one line of JSON:
parameters, the tensors they are in, bytes and number of buffers; or {"error": text}.
"""

import json
import sys
from pathlib import Path

from torch import nn

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.errors import RaytrainError
from raytrain.training.label_facts import read_facts
from raytrain.training.loop import build_network
from raytrain.training.process import quieten


def main(output: str, job_file: str, contract_file: str) -> None:
    """Builds the network and measures it."""
    quieten()
    job = JobConfig.parse(json.loads(Path(job_file).read_text(encoding="utf-8")), job_file)
    contract = Contract.parse(json.loads(Path(contract_file).read_text(encoding="utf-8")), contract_file)
    found: dict[str, int] | dict[str, str]
    try:
        found = dense_size(build_network(job, contract, read_facts(job, contract)))
    except RaytrainError as err:
        found = {"error": str(err)}
    Path(output).write_text(json.dumps(found) + "\n", encoding="utf-8")


def dense_size(network: nn.Module) -> dict[str, int]:
    """The fields of ``cluster.exchange.DenseSize``: what an optimizer moves, and what is only kept."""
    parameters = list(network.parameters())
    kept = {name for name, _ in network.named_parameters()}
    buffers = [value for name, value in network.state_dict().items() if name not in kept]
    return {
        "num_parameters": sum(parameter.numel() for parameter in parameters),
        "num_tensors": len(parameters),
        "buffer_bytes": sum(value.nbytes for value in buffers),
        "num_buffers": len(buffers),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
