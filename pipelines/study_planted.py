"""Does the gain ledger find what harms? A run's last ledger against the planted truth of its data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raytrain.data.contract import load_contract
from raytrain.data.planted_ltv.job import TRUTH_FILE
from raytrain.data.planted_ltv.rows import GOOD, HARMFUL
from raytrain.metrics.auc import auc
from raytrain.storage import Storage

_COLUMNS = ["domain", "split", "slice", "slice_role", "role"]


@dataclass(frozen=True)
class PlantedTruth:
    """Of the source domains' training rows."""

    roles: dict[int, str]
    """slice -> good, neutral or harmful"""
    harmful_shares: dict[int, float]
    """slice -> share of its rows that harm"""


def load_truth(data_path: str) -> PlantedTruth | None:
    """The truth beside a prepared data set; None where there is none, or none of slices."""
    storage = Storage(data_path)
    if not storage.exists(TRUTH_FILE):
        return None
    path, system = storage.path(TRUTH_FILE), storage.filesystem
    if not set(_COLUMNS) <= set(pq.read_schema(path, filesystem=system).names):
        return None
    chosen = [("split", "=", "train"), ("domain", "in", list(load_contract(data_path).sources))]
    rows = pq.read_table(path, filesystem=system, columns=_COLUMNS, filters=chosen)
    slices, first, place = np.unique(rows["slice"].to_numpy(), return_index=True, return_inverse=True)
    roles = rows["slice_role"].to_numpy()[first]
    shares = np.bincount(place, rows["role"].to_numpy() == HARMFUL) / np.bincount(place)
    return PlantedTruth(dict(zip(slices.tolist(), roles.tolist(), strict=True)), dict(zip(slices.tolist(), shares.tolist(), strict=True)))


def planted_detection(ledger: Mapping[str, Any], truth: PlantedTruth) -> dict[str, float]:
    """rank_auc, helpful_auc, gain_auc, harmful_share and last_harmful_share; NaN where undefined.

    rank_auc: of ranking good and neutral slices above harmful ones, over slices with a gain, as the ledger does: those that surprise
    too much last, else by gain. helpful_auc: good ones alone. gain_auc: as rank_auc, by gain alone.
    harmful_share: of all rows let in, those that harm; last_harmful_share: of those of the last window. Which rows of a slice were let
    in is not logged: they are taken to be like all of its rows, which is exact where a slice is let in or left out as a whole.

    ledger: ``model_logs.gain`` of a result: slice, gain (None: unknown), barred, accepted and window_accepted, as columns.
    """
    # Slice 0, unknown, has no role.
    columns = zip(ledger["slice"], ledger["gain"], ledger["barred"], strict=True)
    known = [(truth.roles[number], gain, barred) for number, gain, barred in columns if number in truth.roles and gain is not None]
    # Gains are shares of what internal rows move: none is near this.
    ranked = [(role, gain - 1e6 * barred) for role, gain, barred in known]
    return {
        "rank_auc": _auc(ranked),
        "helpful_auc": _auc([(role, rank) for role, rank in ranked if role in (GOOD, HARMFUL)]),
        "gain_auc": _auc([(role, gain) for role, gain, _ in known]),
        "harmful_share": _harmful_share(ledger["slice"], ledger["accepted"], truth),
        "last_harmful_share": _harmful_share(ledger["slice"], ledger["window_accepted"], truth),
    }


def _harmful_share(slices: Sequence[int], accepted: Sequence[float], truth: PlantedTruth) -> float:
    known = {number: volume for number, volume in zip(slices, accepted, strict=True) if number in truth.roles}
    num_accepted = sum(known.values())
    num_harmful = sum(volume * truth.harmful_shares[number] for number, volume in known.items())
    return num_harmful / num_accepted if num_accepted else float("nan")


def _auc(slices: list[tuple[str, float]]) -> float:
    harmless = np.array([role != HARMFUL for role, _ in slices], np.float64)
    return auc(np.array([gain for _, gain in slices], np.float64), harmless)
