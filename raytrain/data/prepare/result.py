"""What a finished prepare says: the contract, and the summary of every row that went in."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from raytrain.data.contract import Contract, Domain, Feature, History, Overlap, SideInformation, Split, Table
from raytrain.data.prepare.days import Days
from raytrain.data.prepare.encode import BlockParts
from raytrain.data.prepare.fingerprint import combined_digest
from raytrain.data.prepare.scan import Cut, Scan
from raytrain.data.prepare.spec import ITEM, USER, EventSpec
from raytrain.data.prepare.write import Bucket, Moments, history_path, sample_path
from raytrain.errors import DataError

MAX_UNSEEN_SLICES = 10_000
"""They are listed in the contract."""


@dataclass(frozen=True)
class EncodedDomain:
    """The merged first pass of one domain: its partial files, and which ids occur in it."""

    files: list[str]
    has_user: npt.NDArray[np.bool_]
    """[rows of the user table]"""
    has_item: npt.NDArray[np.bool_]
    unknown: Counter[str]

    @classmethod
    def empty(cls, table_rows: dict[str, int]) -> Self:
        return cls([], np.zeros(table_rows[USER], dtype=bool), np.zeros(table_rows[ITEM], dtype=bool), Counter())

    def add(self, part: BlockParts) -> None:
        self.files.append(part.file)
        self.unknown.update(part.unknown)
        self.has_user[part.users] = True
        self.has_item[part.items] = True


def build_contract(
    spec: EventSpec,
    table_rows: dict[str, int],
    encoded: dict[str, EncodedDomain],
    buckets: dict[str, list[Bucket]],
    num_buckets: int,
) -> Contract:
    """The contract of the files that were written."""
    hashed = {table for table, space, _ in spec.id_columns() if space.encoding == "hash"}
    side = tuple(SideInformation(name=side.name, num_values=side.num_values, derived_from=side.derived_from) for side in spec.side)
    return Contract(
        dataset=spec.dataset,
        content_hash=combined_digest(
            (f"{path}/{number}", digest)
            for domain, written in buckets.items()
            for number, bucket in enumerate(written)
            for path, digest in _digests(domain, bucket)
        ),
        num_buckets=num_buckets,
        amount=spec.label.amount,
        group=spec.group,
        slice=spec.slice,
        unseen_slices=_unseen_slices(buckets),
        tables={table: Table(num_rows=max(2, rows), hashed=table in hashed) for table, rows in table_rows.items()},
        features=_features(spec, buckets),
        domains={
            name: Domain(
                role=domain.role,
                splits={} if spec.split.by_day else _samples(name, buckets[name]),
                days=_samples(name, buckets[name]) if spec.split.by_day else {},
                history=History(
                    path=history_path(name),
                    table=ITEM,
                    side=side,
                    num_events=sum(bucket.num_events for bucket in buckets[name]),
                    num_users=sum(bucket.num_users for bucket in buckets[name]),
                    max_events=max(bucket.max_events for bucket in buckets[name]),
                ),
            )
            for name, domain in spec.domains.items()
        },
        overlap=tuple(
            Overlap(
                domains=(one, other),
                num_shared_users=int((encoded[one].has_user & encoded[other].has_user).sum()),
                num_shared_items=int((encoded[one].has_item & encoded[other].has_item).sum()),
            )
            for one, other in combinations(spec.domains, 2)
        ),
    )


def summary(spec: EventSpec, scan: Scan, encoded: dict[str, EncodedDomain], cut: Cut | Days | None, contract: Contract) -> dict[str, Any]:
    """What prepared.json holds: rows in, out and dropped by reason; values that became id 0; the cut (null: a column or days split)."""
    return {
        "state": "finished",
        "content_hash": contract.content_hash,
        "valid_from_time": cut.valid_time if isinstance(cut, Cut) else None,
        "test_from_time": cut.test_time if isinstance(cut, Cut) else None,
        "known_until_time": cut.known_until if isinstance(cut, Days) else None,
        "domains": {
            name: {
                "rows_in": scan.num_rows[name],
                "rows_out": sum(part.num_rows for part in samples_of(contract.domains[name]).values()),
                "dropped": dict(sorted(scan.dropped[name].items())),
                "unknown_values": dict(sorted(encoded[name].unknown.items())),
            }
            for name in spec.domains
        },
    }


def dropped_rows(scan: Scan) -> str:
    """One clause: how many rows are left out, and why."""
    total: Counter[str] = sum(scan.dropped.values(), Counter())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in total.most_common())
    return f"{scan.num_rows.total():,} rows, {total.total():,} dropped" + (f" ({reasons})" if reasons else "")


def cut_in_words(cut: Cut | Days | None, spec: EventSpec) -> str:
    """One clause: what splits the rows."""
    if isinstance(cut, Cut):
        return f"valid from {cut.valid_time}, test from {cut.test_time} (Unix s)"
    return f"split by column {spec.split.column}" if cut is None else f"kept by day (UTC), known until {spec.split.known_until}"


def rows_in_words(domain: Domain) -> str:
    """One clause: the rows of each split, or of all days."""
    if not domain.days:
        return " ".join(f"{name} {split.num_rows:,}" for name, split in domain.splits.items())
    rows = sum(day.num_rows for day in domain.days.values())
    return f"{rows:,} in {len(domain.days)} days, {min(domain.days)} to {max(domain.days)}"


def _unseen_slices(buckets: dict[str, list[Bucket]]) -> tuple[int, ...]:
    every = [bucket for written in buckets.values() for bucket in written]
    unseen = np.setdiff1d(np.concatenate([b.slices for b in every]), np.concatenate([b.train_slices for b in every]))
    unseen = unseen[unseen > 0]
    if len(unseen) > MAX_UNSEEN_SLICES:
        raise DataError(
            f"A slice has to be a group of many rows. Received: {len(unseen):,} slices without a training row. Name a coarser column."
        )
    return tuple(unseen.tolist())


def _digests(domain: str, bucket: Bucket) -> list[tuple[str, str]]:
    samples = [(sample_path(domain, name), written.digest) for name, written in bucket.samples.items()]
    return [*samples, (history_path(domain), bucket.history_digest)]


def samples_of(domain: Domain) -> dict[str, Split]:
    """Its rows by split, or by day."""
    return domain.splits or domain.days


def _samples(domain: str, buckets: list[Bucket]) -> dict[str, Split]:
    return {name: _merged(domain, name, buckets) for name in buckets[0].samples}


def _merged(domain: str, name: str, buckets: list[Bucket]) -> Split:
    parts = [bucket.samples[name] for bucket in buckets]
    return Split(
        path=sample_path(domain, name),
        num_rows=sum(part.num_rows for part in parts),
        num_positives=sum(part.num_positives for part in parts),
        min_time=min((part.min_time for part in parts if part.min_time is not None), default=None),
        max_time=max((part.max_time for part in parts if part.max_time is not None), default=None),
        content_hash=combined_digest((str(number), part.digest) for number, part in enumerate(parts)),
    )


def _features(spec: EventSpec, buckets: dict[str, list[Bucket]]) -> tuple[Feature, ...]:
    features = []
    for feature in spec.features:
        if feature.kind == "dense":
            # Added in domain and bucket order: floating point sums have to come out the same every time.
            known = (bucket.moments.get(feature.name, Moments()) for written in buckets.values() for bucket in written)
            moments = sum(known, Moments())
            features.append(Feature(name=feature.name, kind="dense", mean=moments.mean, std=moments.std))
        else:
            table = feature.name if feature.name in (USER, ITEM) else feature.table_name
            features.append(Feature(name=feature.name, kind=feature.kind, table=table, max_values=feature.max_values))
    return tuple(features)
