"""report.html of a run: one self-contained page, no scripts, nothing loaded from elsewhere.

The page answers in this order: how good, compared with what, how it got there, whether every row was trained, how to repeat it.
"""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.storage import Storage, masked
from raytrain.training.curves import charts
from raytrain.training.gain_report import ledger_table

REPORT_FILE = "report.html"

CLICK_TITLES = {"auc": "AUC", "gauc": "GAUC", "logloss": "Log loss", "ne": "NE", "pcoc": "PCOC"}
AMOUNT_TITLES = {
    "norm_gini": "Gini",
    "spearman": "Spearman",
    "pay_auc": "AUC of paying",
    "nrmse": "NRMSE",
    "nmae": "NMAE",
    "decile_mape": "Decile MAPE",
    "total_error": "Total error",
    "total_ratio": "Total ratio",
}
METRIC_TITLES = CLICK_TITLES | AMOUNT_TITLES
_CLICK_HINT = "AUC and GAUC: higher is better; log loss and NE: lower is better; PCOC: nearer to 1 is better."
_AMOUNT_HINT = (
    "Gini (normalised), Spearman and AUC of paying: higher is better; NRMSE, NMAE, decile MAPE and total error: lower is better; "
    "total ratio, predicted over true: nearer to 1 is better."
)


def write_report(
    storage: Storage,
    result: dict[str, Any],
    records: list[dict[str, Any]],
    baselines: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    histories: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Writes report.html into the run directory.

    result: as in result.json. baselines: run directory -> result. records: as in metrics.jsonl; a model without steps has no curves.
    histories: domain -> events, of each history that rows were read with. config.yaml is read from the run directory where there is one.
    """
    target, others = next(iter(result["test"]), None), list(baselines.values())
    metrics = result["test"][target] if target else {}
    plan = next((record["tables"] for record in records if record["kind"] == "plan"), "")
    storage.write_text(
        REPORT_FILE,
        render(
            "run.html.j2",
            model=result["model"],
            dataset=result["dataset"],
            run_name=masked(storage.uri).rpartition("/")[2],
            summary=_summary(metrics, result, others, target) if target else "Trained, and scored on nothing: no test rows were named.",
            hint=_AMOUNT_HINT if _titles(metrics) is AMOUNT_TITLES else _CLICK_HINT,
            tiles=_tiles(metrics) if target else [],
            # Once each: a launch that goes on says again what the one before it said.
            warnings=list(dict.fromkeys(masked(record["text"]) for record in records if record["kind"] == "warning")),
            tables=[_table(domain, result, others) for domain in result["test"]],
            charts=charts(records, result.get("best_step")),
            ledger=ledger_table(result["model_logs"].get("gain")),
            rows=_rows(result),
            facts=_facts(result, histories),
            command=masked(_command(storage, baselines)),
            plan=masked(plan),
            config=masked(storage.read_text("config.yaml")) if storage.exists("config.yaml") else "",
        ),
    )


def _command(storage: Storage, baselines: Iterable[str]) -> str:
    beside = [word for path in baselines for word in ("--baseline", path)]
    return shlex.join(["raytrain", "train", storage.join("config.yaml"), "run.name=null", *beside])


def render(template: str, **values: object) -> str:
    """A page of raytrain/templates; every value is escaped, and a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("raytrain", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def number(value: float | None, digits: int = 4) -> str:
    """Rounded, with thousands separated; a dash for what is undefined."""
    return "\u2013" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, rounded; a dash for what is undefined."""
    return "\u2013" if value is None or math.isnan(value) else f"{value:+,.{digits}f}"


def best_of(metric: str, values: Sequence[float | None]) -> int | None:
    """Index of the best value of a metric; None when there are not two to compare."""
    scored = [(_badness(metric, value), index) for index, value in enumerate(values) if value is not None and not math.isnan(value)]
    return min(scored)[1] if len(scored) > 1 else None


def _titles(metrics: Mapping[str, float]) -> dict[str, str]:
    """What is shown of a split's metrics, by what its labels are."""
    return AMOUNT_TITLES if "norm_gini" in metrics else CLICK_TITLES


def _badness(metric: str, value: float) -> float:
    if metric in ("pcoc", "total_ratio"):
        return abs(math.log(value)) if value > 0 else math.inf
    return -value if HIGHER_IS_BETTER[metric] else value


def _summary(metrics: Mapping[str, float], result: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]], target: str) -> str:
    titles, parts = _titles(metrics), []
    headline = next(iter(titles))
    if titles is AMOUNT_TITLES and not math.isnan(metrics["norm_gini"]):
        parts.append(f"Its ranking of rows it has not seen by amount has {metrics['norm_gini']:.1%} of the Gini of the true order.")
    elif titles is CLICK_TITLES and not math.isnan(metrics["auc"]):
        parts.append(f"Shown one positive and one negative row it has not seen, it ranks them right {metrics['auc']:.1%} of the time.")
    comparable = [other for other in baselines if not _mismatch(other, result, target)]
    if comparable:
        values = [other["test"][target].get(headline, math.nan) for other in comparable]
        others = [(_badness(headline, value), other["model"], value) for value, other in zip(values, comparable, strict=True)]
        _, rival, value = min(others, key=lambda item: (math.isnan(item[0]), item[0]))
        gap = metrics[headline] - value
        where = "ahead of" if gap > 0 else "behind" if gap < 0 else "level with"
        if not math.isnan(gap):
            parts.append(f"In {titles[headline]} that is {abs(gap):.4f} {where} the best baseline, {rival}.")
    parts.append(_calibration(metrics["pcoc"]) if titles is CLICK_TITLES else _totals(metrics["total_ratio"]))
    return " ".join(parts)


def _calibration(pcoc: float) -> str:
    if math.isnan(pcoc):
        return "Calibration is undefined: the test rows hold no positive."
    if abs(pcoc - 1) < 0.005:
        return "It predicts as many positives as there are, to within half a per cent."
    return f"It predicts {abs(pcoc - 1):.1%} {'more' if pcoc > 1 else 'fewer'} positives than there are (PCOC {pcoc:.3f})."


def _totals(ratio: float) -> str:
    if math.isnan(ratio):
        return "Its total is undefined: the test rows hold no amount above 0."
    return f"Its predictions add up to {ratio:.1%} of what was paid."


def _tiles(metrics: Mapping[str, float]) -> list[dict[str, str]]:
    meanings = {
        "auc": "ranking over all rows; 0.5 is chance, 1 is perfect",
        "gauc": "ranking inside each user's rows",
        "logloss": "error of the probabilities; lower is better",
        "pcoc": "predicted over observed; 1 is calibrated",
    }
    if _titles(metrics) is AMOUNT_TITLES:
        meanings = {
            "norm_gini": "ranking by amount; 0 is chance, 1 is the true order",
            "spearman": "rank correlation with the true amounts",
            "pay_auc": "ranking of payers over others; 0.5 is chance",
            "total_ratio": "predicted over true total; 1 is calibrated",
        }
    return [{"name": METRIC_TITLES[name], "value": number(metrics[name]), "meaning": meaning} for name, meaning in meanings.items()]


def _table(domain: str, result: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """This run and the baselines, best in the first metric first; a baseline scored on other rows competes for nothing."""
    titles = _titles(result["test"][domain])
    headline = next(iter(titles))
    shown: list[tuple[Mapping[str, Any], bool, str]] = [(result, True, "")]
    shown += [(other, False, "") for other in _vanilla(result["test"][domain], domain)]
    shown += [(other, False, _mismatch(other, result, domain)) for other in baselines]
    scores = [other["test"].get(domain, {}) for other, _, _ in shown]
    comparable = [not note for _, _, note in shown]
    best = {
        name: best_of(name, [score.get(name) if fair else None for score, fair in zip(scores, comparable, strict=True)]) for name in titles
    }
    rows = []
    for index, ((other, this, note), score) in enumerate(zip(shown, scores, strict=True)):
        cells = [{"text": number(score.get(name)), "best": best[name] == index} for name in titles]
        cells.append({"text": number(score.get("num_rows"), 0), "best": False})
        rows.append(
            {"model": other["model"], "this": this, "note": note, "cells": cells, "order": (bool(note), _descending(score.get(headline)))}
        )
    rows.sort(key=lambda row: row["order"])
    return {"domain": domain, "columns": [*titles.values(), "Rows"], "rows": rows}


def _vanilla(metrics: Mapping[str, float], domain: str) -> list[dict[str, Any]]:
    """ADSNet's other network as if it were a baseline: what external rows have not touched since the last alignment."""
    own = {name.removeprefix("vanilla_"): value for name, value in metrics.items() if name.startswith("vanilla_")}
    return [{"model": "its vanilla network", "test": {domain: own | {"num_rows": metrics["num_rows"]}}}] if own else []


def _descending(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else -value


def _mismatch(other: Mapping[str, Any], result: Mapping[str, Any], domain: str) -> str:
    """Why a baseline cannot stand beside this run, or ""."""
    if other["dataset"] != result["dataset"]:
        return f"another data set: {other['dataset']}"
    if other.get("content_hash") != result.get("content_hash"):
        return "another preparation of the data set"
    if domain not in other["test"]:
        return "not scored on this domain"
    return "" if other["test"][domain].get("num_rows") == result["test"][domain].get("num_rows") else "scored on other rows"


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for domain, expected in result["rows_expected"].items():
        trained, quarantined = result["rows_trained"].get(domain, 0), result["rows_quarantined"].get(domain, 0)
        missing = expected - trained - quarantined
        verdict = "\u2713 every row accounted for" if not missing else f"\u2717 {abs(missing):,} {'missing' if missing > 0 else 'too many'}"
        counts = {"expected": expected, "trained": trained, "quarantined": quarantined}
        rows.append({"domain": domain, "ok": not missing, "verdict": verdict} | {name: f"{value:,}" for name, value in counts.items()})
    return rows


def _facts(result: Mapping[str, Any], histories: Mapping[str, int]) -> list[tuple[str, str]]:
    facts = [
        ("Seed", str(result["seed"])),
        ("Workers", str(result["world_size"])),
        ("Throughput", f"{result['train_samples_per_s']:,.0f} rows/s"),
        ("Waiting for data", f"{result['data_wait_share']:.1%} of training time"),
        ("Peak memory", ", ".join(f"{mib:,.0f}" for mib in result["peak_rss_mib"]) + " MiB, one figure a worker"),
        ("Wall time", str(timedelta(seconds=round(result["wall_s"])))),
    ]
    if histories:
        read = ", ".join(f"{num_events:,} events of {domain}" for domain, num_events in histories.items())
        facts.insert(1, ("Histories", f"{read}; of each a row reads what lies before it"))
    restarts = [f"step {start['step']:,} on {start['world_size']} worker(s)" for start in result.get("starts", [])[1:]]
    if restarts:
        facts.insert(2, ("Went on from", ", ".join(restarts)))
    if "num_steps" in result:
        ended = ", stopped early" if result["stopped_early"] else ""
        facts.insert(2, ("Steps", f"{result['num_steps']:,}{ended}; the model is the one of step {result['best_step']:,}"))
    return facts
