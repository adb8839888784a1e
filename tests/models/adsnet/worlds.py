"""A contract, jobs and batches of two domains, small enough to compute by hand."""

from typing import Any

import torch

from raytrain.adsnet_config import AdsnetModel
from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract, Domain, Feature, Table
from raytrain.embeddings.tables import EmbeddedRows
from raytrain.models.adsnet.declarations import adsnet_tables
from raytrain.models.adsnet.label_stats import LabelStats
from raytrain.models.adsnet.pair import PseudoSiamese

NUM_ITEMS, NUM_TAGS = 7, 5
STATS = LabelStats(thresholds=(0.0, 2.0, 5.0), tail_excess=3.0, pay_share=0.5, mean_paid=4.0)


def contract() -> Contract:
    """One id, one multi-valued feature over its own space, two numbers."""
    return Contract(
        dataset="by hand",
        content_hash="0",
        num_buckets=1,
        tables={"item": Table(num_rows=NUM_ITEMS), "tag": Table(num_rows=NUM_TAGS)},
        features=(
            Feature(name="item", kind="id", table="item"),
            Feature(name="tags", kind="multi", table="tag", max_values=2),
            Feature(name="price", kind="dense"),
            Feature(name="age", kind="dense"),
        ),
        domains={"target": Domain(role="target", splits={}), "source": Domain(role="source", splits={})},
    )


def job(dim: int = 3) -> JobConfig:
    return JobConfig.parse({"data": {"path": "nowhere"}, "model": {"name": "dnn"}, "tables": {"backend": "local", "dim": dim}}, "test")


def model(**sections: Any) -> AdsnetModel:
    """Small layers, unless ``sections`` say otherwise."""
    backbone = {"expert_units": [6, 4], "tower_units": [5], **sections.pop("backbone", {})}
    return AdsnetModel.parse({"backbone": backbone, **sections}, "test")


def pair_of(section: AdsnetModel, seed: int = 0) -> PseudoSiamese:
    """In float64, its networks moved apart from each other."""
    torch.manual_seed(seed)
    pair = PseudoSiamese(section, job(), contract(), STATS).double()
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return pair


def batch_of(domain: list[int], seed: int = 0, label: torch.Tensor | None = None) -> Batch:
    """float64 rows of the domains named; about half of them pay."""
    draw = torch.Generator().manual_seed(seed)
    num_rows = len(domain)
    drawn = torch.randn(num_rows, generator=draw, dtype=torch.float64)
    zeros = torch.zeros(num_rows, dtype=torch.int64)
    return Batch(
        ids={
            "item": torch.randint(1, NUM_ITEMS, (num_rows,), generator=draw),
            "tags": torch.randint(0, NUM_TAGS, (num_rows, 2), generator=draw),
        },
        dense={name: torch.randn(num_rows, generator=draw, dtype=torch.float64) for name in ("price", "age")},
        histories={},
        label=4.0 * drawn.clamp(min=0.0) if label is None else label,
        weight=torch.ones(num_rows, dtype=torch.float64),
        group=zeros,
        time=zeros,
        domain=torch.tensor(domain),
    )


def embedded_of(section: AdsnetModel, batch: Batch, seed: int = 0) -> dict[str, EmbeddedRows]:
    """Every row of every table, as leaves in float64 that gather gradients."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for table in adsnet_tables(section, job(), contract()):
        rows = torch.randn(table.num_rows, table.dim, generator=draw, dtype=torch.float64).requires_grad_()
        found[table.name] = EmbeddedRows(rows, torch.arange(table.num_rows), {name: batch.ids[name] for name in table.features})
    return found
