"""How far apart ADSNet's two domains, and its two networks, are: ``python -m pipelines.domain_distance RUN [RUN ...]``.

    python -m pipelines.domain_distance runs/adsnet runs/adsnet_without_bridges

Of finished runs, with the best checkpoint: MMD^2 and the proxy A-distance of internal (test split) against external rows in the gain
network, and of the gain against the vanilla network on the internal ones; in the encoder's space and in that of the towers' last layers.
With and without bridges, two runs show what the bridges do to them.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from pipelines.discrepancy import discrepancy, proxy_a_distance, some
from raytrain.adsnet_config import AdsnetModel
from raytrain.data.batch import Batch
from raytrain.data.micro_batches import local_micro_batches
from raytrain.errors import RunError
from raytrain.models.adsnet.declarations import GAIN, VANILLA
from raytrain.models.adsnet.pair import PseudoSiamese
from raytrain.run import Run, open_run, read_result
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_weights
from raytrain.training.commit import CHECKPOINTS
from raytrain.training.loop import Learner, build_learner
from raytrain.training.parallel import World, unwrapped
from raytrain.training.specs import scoring_spec

MAX_ROWS = 4_000
"""Of each domain, in the order of a shuffle with the run's seed."""
SPACES = ("encoder", "towers")


def domain_distances(path: str) -> dict[str, Any]:
    """Pair of sets -> space -> mmd_squared, mmd_squared_by_chance (its 95th percentile if both were one), proxy_a_distance.

    Raises:
        RunError: the run is not there, is not finished, or is not of ADSNet with external rows.
    """
    run = open_run(path)
    if not isinstance(run.job.model, AdsnetModel) or len(run.contract.sources) != 1:
        raise RunError(f"The run has to be of adsnet with one external domain. Received: model.name={run.job.model.name} in {path}.")
    learner = _learner(run)
    internal = [_vectors(learner, batch) for batch in _batches(run, run.contract.target, "test")]
    external = [_vectors(learner, batch) for batch in _batches(run, run.contract.sources[0], "train")]
    sets = {
        "internal against external, gain network": (_joined(internal, GAIN), _joined(external, GAIN)),
        "gain against vanilla network, internal": (_joined(internal, GAIN), _joined(internal, VANILLA)),
    }
    return {name: {space: _numbers(first[space], second[space]) for space in SPACES} for name, (first, second) in sets.items()}


def _learner(run: Run) -> Learner:
    # Local tables load what sharded ones saved, and need neither FBGEMM nor a process group.
    job = run.job.model_copy(update={"tables": run.job.tables.model_copy(update={"backend": "local"})})
    learner = build_learner(job, run.contract, World())
    best = Storage(run.storage.join(f"{CHECKPOINTS}/{read_result(run.storage.uri)['best_checkpoint']}"))
    load_weights(best, learner.tables, learner.network)
    learner.network.eval()
    return learner


def _batches(run: Run, domain: str, split: str) -> Iterator[Batch]:
    spec = replace(scoring_spec(run.job, run.contract, domain, split, ()), shuffle=True)
    return islice(local_micro_batches(spec), -(-MAX_ROWS // run.job.data.batch_size))


@torch.no_grad()
def _vectors(learner: Learner, batch: Batch) -> dict[tuple[str, str], Tensor]:
    """(network, space) -> float32 [B, E]; rows of weight 0 are left out."""
    pair = unwrapped(learner.network)
    assert isinstance(pair, PseudoSiamese)
    embedded, kept = learner.tables(batch), batch.weight > 0
    found = {}
    for prefix, network in ((VANILLA, pair.vanilla), (GAIN, pair.gain)):
        made = network(pair.inputs(prefix, embedded, batch))
        found[prefix, "encoder"], found[prefix, "towers"] = made.encoded[kept], made.hidden[kept].flatten(1)
    return found


def _joined(parts: list[dict[tuple[str, str], Tensor]], network: str) -> dict[str, Tensor]:
    return {space: torch.cat([part[network, space] for part in parts]) for space in SPACES}


def _numbers(first: Tensor, second: Tensor) -> dict[str, float]:
    found = discrepancy(some(first), some(second))
    return {
        "mmd_squared": found.mmd_squared,
        "mmd_squared_by_chance": found.by_chance,
        "proxy_a_distance": proxy_a_distance(some(first), some(second)),
    }


def main(runs: Annotated[list[str], typer.Argument(help="Finished runs of adsnet")]) -> None:
    """Prints one JSON object a run."""
    for path in runs:
        typer.echo(json.dumps({"run": path, **domain_distances(path)}, indent=2))


if __name__ == "__main__":
    typer.run(main)
