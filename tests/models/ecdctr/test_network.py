"""Which monthly vectors a row sees: the latest that end before it, and never one that was trained on the row."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.contract import load_contract
from raytrain.ecdctr_config import EcdctrModel
from raytrain.embeddings.tables import EmbeddedRows
from raytrain.models.ecdctr.network import HistoricalEmbeddings
from tests.data.build import build_dataset
from tests.embeddings.cases import make_batch


class Kept(nn.Module):
    """Stands for a fusion and shows what it was given."""

    def forward(self, months: Tensor) -> Tensor:
        return months[:, :, 0]


def test_a_row_sees_the_latest_snapshots_before_it(tmp_path: Path) -> None:
    build_dataset(tmp_path / "data")
    model = EcdctrModel(months=2, month_dim=4)
    job = JobConfig.parse({"data": {"path": "x"}, "model": model.model_dump(), "start": {"snapshots": ["a", "b", "c"]}}, "test")
    module = HistoricalEmbeddings(model, job, load_contract(str(tmp_path / "data")))
    module.fusion = nn.ModuleDict({"user": Kept(), "item": Kept()})
    module.seen_from.copy_(torch.tensor([100, 200, 300]))
    ids = torch.tensor([1, 1, 1, 1, 1])
    batch = replace(make_batch({"user": ids, "item": ids}), time=torch.tensor([50, 100, 299, 300, 999]))
    # Snapshot k holds k + 1 for users and 10 (k + 1) for items.
    embedded = {
        f"month{month}_{name}": EmbeddedRows(
            torch.full((1, 4), scale * (month + 1.0)), torch.tensor([1]), {name: torch.zeros(5, dtype=torch.int64)}
        )
        for month in range(3)
        for name, scale in (("user", 1.0), ("item", 10.0))
    }
    users, known, items, _ = module(embedded, batch).split(2, dim=1)
    assert users.tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [2, 3]]
    assert known.tolist() == [[0, 0], [0, 1], [1, 1], [1, 1], [1, 1]]
    assert torch.equal(items, 10 * users)


def test_without_snapshots_nobody_is_known(tmp_path: Path) -> None:
    build_dataset(tmp_path / "data")
    model = EcdctrModel(months=2, month_dim=4)
    job = JobConfig.parse({"data": {"path": "x"}, "model": model.model_dump()}, "test")
    module = HistoricalEmbeddings(model, job, load_contract(str(tmp_path / "data")))
    ids = torch.tensor([3])
    rows = EmbeddedRows(torch.zeros(1, 4), ids, {name: torch.zeros(1, dtype=torch.int64) for name in ("user", "item")})
    embedded = {f"month{month}_{name}": rows for month in range(2) for name in ("user", "item")}
    found = module(embedded, replace(make_batch({"user": ids, "item": ids}), time=torch.tensor([2**62])))
    assert found.shape == (1, module.num_outputs)
    assert (found[0, model.fusion.num_outputs : model.fusion.num_outputs + 2] == 0).all()
