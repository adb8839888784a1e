"""A tiny data set on paper and jobs on it, whose capacity a hand can count."""

from cluster.capacity import Capacity
from cluster.data_size import DataSize, DomainSize
from cluster.exchange import DenseSize
from cluster.plan import ASSUMED
from raytrain.config import JobConfig
from raytrain.data.contract import Contract, Domain, Feature, History, SideInformation, Split, Table
from raytrain.settings import with_overrides

SIDE = (SideInformation(name="rating", num_values=6), SideInformation(name="age", num_values=8, derived_from="age"))
SPLITS = {name: Split(path=name, num_rows=1_000, num_positives=500) for name in ("train", "valid", "test", "probe")}
HISTORY = History(path="h", table="item", side=SIDE, num_events=6_000, num_users=200, max_events=30)
CONTRACT = Contract(
    dataset="paper",
    content_hash="0",
    num_buckets=4,
    slice="country",
    tables={"user": Table(num_rows=201), "item": Table(num_rows=1_001), "country": Table(num_rows=7), "tag": Table(num_rows=20)},
    features=(
        Feature(name="user", kind="id", table="user"),
        Feature(name="item", kind="id", table="item"),
        Feature(name="country", kind="id", table="country"),
        Feature(name="tags", kind="multi", table="tag", max_values=3),
        Feature(name="price", kind="dense"),
    ),
    domains={
        "ads": Domain(role="target", splits=SPLITS, history=HISTORY),
        "feed": Domain(role="source", splits={name: SPLITS[name] for name in ("train", "valid", "test")}, history=HISTORY),
    },
)
TARGET, SOURCE = DomainSize(1_000, 20, 4), DomainSize(9_000, 90, 4)
DENSE = DenseSize(num_parameters=1_000, num_tensors=4, buffer_bytes=80, num_buffers=2)


def job_for(model: str = "din", *overrides: str) -> JobConfig:
    values = {
        "data": {"path": "x", "batch_size": 100, "source_batch_size": 60, "window_batches": 2, "history_length": 50},
        "model": {"name": model, **({"head": {"kind": "click"}} if model == "adsnet" else {})},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


def capacity_of(job: JobConfig, num_workers: int = 2, dense: DenseSize = DENSE) -> Capacity:
    trained = {"ads": TARGET, "feed": SOURCE} if job.data.source_batch_size else {"ads": TARGET}
    return Capacity(job, DataSize(CONTRACT, trained), num_workers, dense, ASSUMED)
