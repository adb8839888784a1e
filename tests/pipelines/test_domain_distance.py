"""Distances between domains and networks: of sets that are alike, of sets that are not, and of a trained pair."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipelines.discrepancy import proxy_a_distance
from pipelines.domain_distance import SPACES, domain_distances
from raytrain.data.planted_ltv import generate_planted_ltv
from raytrain.errors import RunError
from raytrain.run import train
from tests.training.test_transfer import SPEC, job_for

OWN = ("scaling.in_process=true", "scaling.threads_per_worker=1", "run.tensorboard=false")


def test_proxy_a_distance_tells_other_distributions_from_the_same() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(400, 3), torch.randn(200, 3)
    assert proxy_a_distance(first, second) < 0.2
    assert proxy_a_distance(first, second + 10.0) == pytest.approx(2.0)


def test_domains_and_networks_of_a_finished_pair_are_measured(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    generate_planted_ltv(SPEC, path, lambda line: None, num_buckets=2, row_group_rows=256)
    for name, direction in (("apart", "none"), ("copied", "v2g")):
        changes = (f"run.name={name}", f"run.storage_path={tmp_path}", f"model.align.direction={direction}", "model.align.every_steps=1")
        # Every external row moves the gain network away from the vanilla one, unless it is brought back.
        train(job_for(path, *OWN, *changes, "model.gain.estimator=none", "optimizer.lr=0.03"), Console(quiet=True))
    apart, copied = (domain_distances(f"{tmp_path}/{name}") for name in ("apart", "copied"))
    assert all(set(found) == set(SPACES) for found in apart.values())
    pair = "gain against vanilla network, internal"
    assert copied[pair]["encoder"]["mmd_squared"] < apart[pair]["encoder"]["mmd_squared"]
    train(
        job_for(path, *OWN, "model={name: ltv}", "data.source_batch_size=0", "run.name=alone", f"run.storage_path={tmp_path}"),
        Console(quiet=True),
    )
    with pytest.raises(RunError, match="has to be of adsnet"):
        domain_distances(f"{tmp_path}/alone")
