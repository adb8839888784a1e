"""Fake runs of ADSNet arms on amounts: a study over them, and run directories whose predictions hold as much truth as the arm says."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raytrain.config import JobConfig
from raytrain.data.contract import Amount
from raytrain.metrics.ltv_suite import LtvSuite
from raytrain.storage import Storage
from tests.pipelines.fake_runs import NUM_USERS, ROWS_PER_USER, fake_result, write_data, write_predictions, write_study

EUROS = Amount(currency="EUR", horizon_days=30)
NOISE = {"ledger": 0.2, "none": 1.5}
"""estimator -> of the logarithm of the predicted amount"""


def write_ltv_study(directory: Path, **changes: Any) -> str:
    """ADSNet and mixing everything, compared by two metrics of amounts."""
    study = {
        "base": {"data": {"path": write_data(directory, amount=EUROS)}, "model": {"name": "adsnet"}},
        "arms": {"adsnet": {}, "mix": {"overrides": ["model.gain.estimator=none"]}},
        "comparisons": [["adsnet", "mix"]],
        "metrics": ["norm_gini", "pay_auc"],
        "unit": "customer",
    }
    return write_study(directory, **(study | changes))


def write_ltv_run(storage: Storage, job: JobConfig) -> dict[str, Any]:
    """Amounts that the arm predicts more or less well; every arm predicts payers alike, and wrongly."""
    truth = np.random.default_rng(7)
    user = np.repeat(np.arange(NUM_USERS), ROWS_PER_USER)
    scale = truth.normal(size=len(user))
    label = np.where(truth.random(len(user)) < 0.4, np.exp(scale), 0.0).astype(np.float32)
    noise = np.random.default_rng(100 + job.seed).normal(size=len(user))
    ltv = np.exp(np.log(label + 0.1) + NOISE[job.model.gain.estimator] * noise).astype(np.float32)
    pay = np.where(label > 0, 0.2, 0.7).astype(np.float32)
    index = np.arange(len(user), dtype=np.int32)
    columns = {"fragment": index // 500, "row": index % 500, "group": user, "time": user, "label": label, "ltv": ltv, "pay": pay}
    write_predictions(storage, pa.table(columns), job.seed)
    result = fake_result(job, amount_metrics(ltv, pay, label, user))
    return result if job.model.gain.estimator == "none" else result | {"model_logs": {"gain": ledger(job.seed)}}


def ledger(seed: int) -> dict[str, Any]:
    """Four slices, of which 2 and 4 hurt; a third of the rows was let in, and a little more with each seed."""
    return {
        "accepted_share": 1 / 3 + 0.1 * seed,
        "threshold": -0.3,
        "entry_threshold": -0.3,
        "num_slices": 4,
        "num_accepted": 2,
        "num_hurting": 2,
        "num_barred": 1,
        "harm": 0.25,
        "residual_harm": 0.125,
        "slice": [1, 2, 3, 4],
        "gain": [0.1, -0.5, -0.1, -0.6],
        "surprise": [0.0, 0.2, -0.05, 0.3],
        "barred": [False, False, False, True],
        "weight": [1.0, 0.0, 1.0, 0.0],
        "volume": [60.0, 60.0, 60.0, 60.0],
        "accepted": [50.0, 0.0, 30.0, 0.0],
        "window_volume": [10.0, 10.0, 10.0, 10.0],
        "window_accepted": [10.0, 0.0, 10.0, 0.0],
    }


def amount_metrics(ltv: Any, pay: Any, label: Any, user: Any) -> dict[str, float]:
    suite, ones = LtvSuite(), torch.ones(len(label))
    predictions = {"ltv": torch.from_numpy(ltv), "pay": torch.from_numpy(pay)}
    suite.update(predictions, torch.from_numpy(label), torch.from_numpy(user), ones, torch.zeros(len(label), dtype=torch.int64))
    return suite.reduce()
