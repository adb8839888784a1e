"""What a roll's monthly snapshots are like: whom they know of those who are served, and how far each lies from the one before."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.roll_run import Outcome
from pipelines.roll_scores import ServedRows, day_number
from pipelines.roll_store import RollStore
from raytrain.data.contract import Contract
from raytrain.ecdctr_config import EcdctrModel
from raytrain.errors import RunError
from raytrain.training.start import snapshot_vectors

MAX_DRIFT_ROWS = 200_000
"""Ids that a drift is measured on; of more, evenly spread ones."""


def known_users(store: RollStore, contract: Contract, outcomes: Sequence[Outcome], rows: ServedRows) -> list[dict[str, Any]]:
    """Of the rows that an arm has served, by month: how many have a user whom the newest snapshot, or any that its model reads, knows.

    Empty where the arm reads no snapshots, one is gone, or rows are grouped by something else than the user.
    """

    @cache
    def knows(name: str) -> npt.NDArray[np.bool_]:
        """[rows of the user table]"""
        vectors = snapshot_vectors(store.run(by_name[name]))[contract.user]
        return np.asarray((vectors != 0).any(1).numpy())

    if contract.group != contract.user:
        return []
    by_name = {outcome.planned.name: outcome.planned for outcome in outcomes if outcome.planned.stage.kind == "tpm"}
    months: dict[str, list[int]] = {}
    try:
        for outcome in outcomes:
            stage = outcome.planned.stage
            user = rows.group[rows.day == day_number(stage.day)]
            model = outcome.planned.job.model
            if stage.kind != "actr" or not stage.snapshots or not len(user) or not isinstance(model, EcdctrModel):
                continue
            # Parents are the snapshots, oldest first, and then the model that it begins from.
            read = [parent.name for parent in outcome.planned.parents if parent.name in by_name][-model.months :]
            known = np.stack([knows(name)[user] for name in read])
            counts = months.setdefault(f"{stage.day:%Y-%m}", [0, 0, 0])
            for place, count in enumerate((len(user), known[-1].sum(), known.any(0).sum())):
                counts[place] += int(count)
    except (RunError, KeyError):
        return []
    return [
        {"month": month, "num_rows": num_rows, "newest": newest / num_rows, "any": some / num_rows}
        for month, (num_rows, newest, some) in sorted(months.items())
    ]


def drift(store: RollStore, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """How far each snapshot lies from the one before it, by feature, over the ids that both know.

    residual: of orthogonal Procrustes (Schönemann 1966), min over rotations R of |X R - Y| / |Y|. plain: |X - Y| / |Y|, no rotation. A
    plain residual far above the other says that the axes have turned, which attention over months cannot undo.
    """
    finished = sorted(
        {outcome.planned.name: outcome for outcome in outcomes if outcome.manifest and outcome.planned.stage.kind == "tpm"}.values(),
        key=lambda outcome: outcome.planned.stage.day,
    )
    found = []
    of_name = {outcome.planned.name: outcome for outcome in finished}
    for outcome in finished:
        parents = [parent.name for parent in outcome.planned.parents]
        if not parents or parents[0] not in of_name:
            continue
        try:
            before, now = (snapshot_vectors(store.run(side.planned)) for side in (of_name[parents[0]], outcome))
        except RunError:
            # Deleted since: whoever reads it is refused, the report of the others stands.
            continue
        for feature, vectors in now.items():
            x, y = before[feature].double().numpy(), vectors.double().numpy()
            both = np.flatnonzero((x != 0).any(1) & (y != 0).any(1))
            both = both[:: max(1, len(both) // MAX_DRIFT_ROWS)]
            record = {"day": str(outcome.planned.stage.day), "feature": feature, "num_ids": len(both), "stage": outcome.planned.name}
            found.append(record | (procrustes(x[both], y[both]) if len(both) else {"residual": None, "plain": None}))
    return found


def procrustes(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> dict[str, float]:
    """x, y: [N, D], Y not all 0."""
    left, _, right = np.linalg.svd(x.T @ y)
    size = float(np.linalg.norm(y))
    return {"residual": float(np.linalg.norm(x @ (left @ right) - y)) / size, "plain": float(np.linalg.norm(x - y)) / size}
