"""The tables of a study of amounts beside those of its metrics: level and error, Gini by size, and the end of each gain ledger."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.study_ltv import BY_SIZE
from raytrain.training.report import METRIC_TITLES, number

Result = Mapping[str, Any]

_DETECTED = {
    "rank_auc": "AUC",
    "helpful_auc": "helpful alone",
    "gain_auc": "by gain alone",
    "harmful_share": "Harmful let in",
    "worst_harmful_share": "worst seed",
    "last_harmful_share": "last window",
}
_FIGURES_NOTE = (
    "Mean over seeds, on the test split; no intervals. Total ratio: predicted over true total, 1 is calibrated. NRMSE and NMAE: of the "
    "mean amount; lower is better, as is the decile MAPE. "
)
_SIZES_NOTE = "Gini by how many internal training rows the row's slice has."
_LEDGER_NOTE = (
    "Mean over seeds. Accepted: share of external rows let into the gain network. Slices of external rows that were seen, are let in at "
    "the end, hurt (gain below tau as it counts then), and are left out as they surprise. Harm: what an external row takes from internal "
    "ones on average, as a share of what an internal row moves; left: the share of it that the better half of the slices carries, 1 where "
    "slices tell nothing."
)
_TRUTH_NOTE = (
    " Against the data set's planted truth: AUC with which the ledger at its end ranks helpful and neutral slices, or helpful ones alone, "
    "above harmful ones (what surprises last, then by gain), and with which gain alone does; and the share that harms of all rows let in, "
    "on average and for the seed that lets in most, and of those of the last window."
)


def ltv_tables(result: Result, order: Sequence[str]) -> list[dict[str, Any]]:
    """heading, titles, rows of text (the arm first) and note of each table that the study has something for."""
    tables = []
    if "ltv" in result:
        tables.append(_figures(result["ltv"], order))
    if "ledger" in result:
        tables.append(_ledgers(result["ledger"]["arms"], order))
    return tables


def _figures(ltv: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    arms = ltv["arms"]
    # A size that no slice has says nothing.
    shown = [name for name in ltv["figures"] if any(arm[name] is not None for arm in arms.values())]
    has_sizes = any(name.startswith(BY_SIZE) for name in shown)
    return {
        "heading": "Level and error",
        "titles": ["Arm", *(_title(name) for name in shown)],
        "rows": [[arm, *(number(arms[arm][name], 3) for name in shown)] for arm in order],
        "note": _FIGURES_NOTE + (_SIZES_NOTE if has_sizes else ""),
    }


def _ledgers(arms: Mapping[str, Mapping[str, float | None]], order: Sequence[str]) -> dict[str, Any]:
    detected = [name for name in _DETECTED if any(name in arm for arm in arms.values())]
    rows = []
    for name in order:
        if name not in arms:
            continue
        arm = arms[name]
        counts = [_count(arm[count]) for count in ("num_slices", "num_accepted", "num_hurting", "num_barred")]
        shares = [number(arm["harm"], 3), _share(arm["residual_harm"])]
        found = [_share(arm.get(one)) if one.endswith("harmful_share") else number(arm.get(one), 3) for one in detected]
        rows.append([name, _share(arm["accepted_share"]), *counts, *shares, *found])
    return {
        "heading": "Gain ledger",
        "titles": ["Arm", "Accepted", "Slices", "let in", "hurt", "surprise", "Harm", "left", *(_DETECTED[name] for name in detected)],
        "rows": rows,
        "note": _LEDGER_NOTE + (_TRUTH_NOTE if detected else ""),
    }


def _title(name: str) -> str:
    """norm_gini_slice_10_to_99 -> Gini, 10-99 rows."""
    if not name.startswith(BY_SIZE):
        return METRIC_TITLES[name]
    size = name.removeprefix(BY_SIZE).replace("_to_", "\u2013").replace("_up", "+")
    return f"Gini, {size} rows"


def _count(value: float | None) -> str:
    return number(value, 0 if value is not None and value == round(value) else 1)


def _share(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.1%}"
