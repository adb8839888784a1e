"""What a study of amounts tells beside the metrics it compares: level and error, Gini by size of the slice, and the ledger's end."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.study_compare import FinishedCell, spread
from pipelines.study_planted import PlantedTruth, load_truth, planted_detection

FIGURES = ("total_ratio", "nrmse", "nmae", "decile_mape")
BY_SIZE = "norm_gini_slice_"

_LEDGER = ("accepted_share", "num_slices", "num_accepted", "num_hurting", "num_barred", "harm", "residual_harm")


def ltv_figures(variants: Sequence[str], finished: Sequence[FinishedCell]) -> dict[str, Any] | None:
    """The ``ltv`` of result.json: ``figures``, their names, and arms: name -> figure -> mean over seeds (None where undefined).

    Figures are those of FIGURES, and every norm_gini_slice_* that a run has. None where no run predicts amounts.
    """
    found = dict.fromkeys(name for cell in finished for name in cell.metrics if name in FIGURES or name.startswith(BY_SIZE))
    if not found:
        return None
    names = [*(name for name in FIGURES if name in found), *(name for name in found if name not in FIGURES)]
    arms = {
        variant: {name: _mean([cell.metrics.get(name) for cell in finished if cell.variant == variant]) for name in names}
        for variant in variants
    }
    return {"figures": names, "arms": arms}


def ledger_ends(variants: Sequence[str], finished: Sequence[FinishedCell], data_paths: Mapping[str, str]) -> dict[str, Any] | None:
    """The ``ledger`` of result.json, arms: name -> figure -> mean over seeds, of every arm that keeps gain; None where none does.

    accepted_share: of external rows since the ledger began. num_slices: seen; num_accepted, num_hurting, num_barred: let in at the end,
    with a gain below tau as it counts then, left out as they surprise. harm, residual_harm: ``raytrain.models.adsnet.gain.purity``. On
    a data set with planted truth besides what ``planted_detection`` says, and worst_harmful_share, that of the seed that lets in most
    harm.

    data_paths: arm -> data.path.
    """
    truths: dict[str, PlantedTruth | None] = {}
    arms = {}
    for variant in variants:
        ledgers = [cell.result["model_logs"]["gain"] for cell in finished if cell.variant == variant and _keeps_gain(cell)]
        if not ledgers:
            continue
        arms[variant] = {name: _mean([ledger.get(name) for ledger in ledgers]) for name in _LEDGER}
        path = data_paths[variant]
        truth = truths[path] if path in truths else truths.setdefault(path, load_truth(path))
        if truth is not None:
            detected = [planted_detection(ledger, truth) for ledger in ledgers]
            arms[variant] |= {name: _mean([one[name] for one in detected]) for name in detected[0]}
            # A mean over seeds hides the one that a user may draw.
            shares = [one["harmful_share"] for one in detected]
            arms[variant]["worst_harmful_share"] = max((share for share in shares if not math.isnan(share)), default=None)
    return {"arms": arms} if arms else None


def _keeps_gain(cell: FinishedCell) -> bool:
    return "gain" in cell.result.get("model_logs", {})


def _mean(values: Sequence[float | None]) -> float | None:
    """None unless every seed has a value."""
    return spread([float("nan") if value is None else value for value in values])["mean"]
