"""report.html: whole in itself, honest about baselines and rows, and without credentials."""

import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from raytrain.storage import Storage, masked
from raytrain.training.curves import smoothed
from raytrain.training.gain_log import last_ledger
from raytrain.training.report import write_report

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed, and keeps ids, rows and what is loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.external: list[str] = []
        self.rows: list[list[str]] = []
        self.best: list[str] = []
        self._in_best = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [str(values["id"])] if "id" in values else []
        self.external += [
            str(value) for name, value in attributes if name in ("src", "href", "xlink:href") and not str(value).startswith("#")
        ]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._in_best = tag == "td" and values.get("class") == "best"

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if self._in_best:
            self.best.append(data)

    def row_of(self, first: str) -> list[str]:
        return next(row for row in self.rows if row[0].startswith(first))


def metrics(auc: float, gauc: float, logloss: float, pcoc: float = 1.0) -> dict[str, float]:
    return {"auc": auc, "gauc": gauc, "logloss": logloss, "pcoc": pcoc, "ne": logloss / 0.7, "num_rows": 36_512.0}


def result(model: str, test: dict[str, float], **changes: Any) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": "movielens",
        "content_hash": "x",
        "seed": 0,
        "world_size": 2,
        "rows_trained": {"target": 3000},
        "rows_expected": {"target": 3000},
        "rows_quarantined": {"target": 0},
        "train_samples_per_s": 20_123.4,
        "data_wait_share": 0.083,
        "peak_rss_mib": [512.0, 640.0],
        "wall_s": 184.3,
        "valid": {},
        "test": {"target": test},
        "model_logs": {},
    } | changes


def steps() -> dict[str, Any]:
    return {"num_steps": 300, "best_step": 200, "stopped_early": False}


def records() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"kind": "plan", "tables": "item 3,707 x 16 <row_wise>"}]
    for step in range(10, 310, 10):
        train = {"epoch": step / 150, "loss": 0.5 + math.exp(-step / 90), "samples_per_s": 2e4, "lr": 1e-3, "data_wait_share": 0.1}
        found.append({"kind": "train", "step": step} | train)
        if step % 100 == 0:
            found.append({"kind": "valid", "step": step, "epoch": step / 150, "best": step < 300} | metrics(0.78, 0.71, 0.55))
    return found


def page(directory: Path, *arguments: Any, config: str = "seed: 0\n") -> tuple[str, Page]:
    storage = Storage(str(directory / "din-demo"))
    storage.write_text("config.yaml", config)
    write_report(storage, *arguments)
    text = storage.read_text("report.html")
    return text, Page(text)


def test_a_neural_run_shows_its_curves_and_loads_nothing(tmp_path: Path) -> None:
    text, parsed = page(tmp_path, result("din", metrics(0.7921, 0.7211, 0.5412, 1.034), **steps()), records())
    for title in ("Loss", "Validation AUC and GAUC", "Calibration on validation", "Throughput", "Waiting for data"):
        assert f"<figcaption>{title}<" in text
    assert text.count("<svg") == 6
    assert parsed.external == []
    assert "http" not in text
    assert "<script" not in text
    assert len(parsed.ids) == len(set(parsed.ids)), "ids of several figures are kept apart"
    assert "the chosen checkpoint: step 200" in text
    assert "ranks them right 79.2% of the time" in text
    assert "3.4% more positives than there are" in text
    assert "raytrain train" in text
    assert "item 3,707 x 16 &lt;row_wise&gt;" in text


def test_charts_take_their_colours_from_the_page(tmp_path: Path) -> None:
    text, _ = page(tmp_path, result("din", metrics(0.79, 0.72, 0.54), **steps()), records())
    charts = text[text.index("<svg") : text.rindex("</svg>")]
    assert "var(--first)" in charts
    assert "#0" not in charts
    assert "prefers-color-scheme: dark" in text


def test_a_model_without_steps_has_no_curves(tmp_path: Path) -> None:
    text, parsed = page(tmp_path, result("item_mean", metrics(0.74, 0.69, 0.58)), [])
    assert "<svg" not in text
    assert parsed.row_of("item_mean")[1:4] == ["0.7400", "0.6900", "0.5800"]


def test_the_best_value_of_each_column_is_bold(tmp_path: Path) -> None:
    others = {
        "runs/logistic": result("logistic", metrics(0.78, 0.73, 0.55, 0.98)),
        "runs/item mean": result("item_mean", metrics(0.74, 0.69, 0.58, 1.01)),
    }
    text, parsed = page(tmp_path, result("din", metrics(0.79, 0.72, 0.54, 1.05), **steps()), [], others)
    assert parsed.best == ["0.7900", "0.5400", f"{0.54 / 0.7:.4f}", "0.7300", "1.0100"], "din, logistic, item_mean from the top"
    assert "0.0100 ahead of the best baseline, logistic" in text
    assert "run.name=null --baseline runs/logistic --baseline &#39;runs/item mean&#39;<" in text, "run again, it is compared again"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"dataset": "other"}, "another data set: other"),
        ({"content_hash": "y"}, "another preparation"),
        ({"test": {"target": metrics(0.99, 0.99, 0.1) | {"num_rows": 5.0}}}, "scored on other rows"),
        ({"test": {"source": metrics(0.99, 0.99, 0.1)}}, "not scored on this domain"),
    ],
    ids=["other data set", "other preparation", "other rows", "other domain"],
)
def test_a_baseline_on_other_rows_is_marked_and_wins_nothing(tmp_path: Path, changes: dict[str, Any], note: str) -> None:
    others = {
        "runs/rival": result("rival", metrics(0.99, 0.99, 0.1)) | changes,
        "runs/logistic": result("logistic", metrics(0.78, 0.71, 0.55)),
    }
    text, parsed = page(tmp_path, result("din", metrics(0.79, 0.72, 0.54), **steps()), [], others)
    assert note in parsed.row_of("rival")[0]
    assert "0.9900" not in parsed.best
    assert "best baseline, logistic" in text


@pytest.mark.parametrize(
    ("trained", "quarantined", "verdict"),
    [(3000, 0, "✓ every row accounted for"), (2990, 10, "✓ every row accounted for"), (2990, 0, "✗ 10 missing"), (3001, 0, "✗ 1 too many")],
    ids=["all trained", "some quarantined", "some lost", "some doubled"],
)
def test_rows_are_checked_against_the_plan(tmp_path: Path, trained: int, quarantined: int, verdict: str) -> None:
    counts = {"rows_trained": {"target": trained}, "rows_quarantined": {"target": quarantined}}
    _, parsed = page(tmp_path, result("din", metrics(0.79, 0.72, 0.54), **counts), [])
    assert parsed.row_of("target")[-1] == verdict


def test_undefined_metrics_are_a_dash(tmp_path: Path) -> None:
    nan = math.nan
    text, parsed = page(tmp_path, result("din", metrics(nan, nan, 0.5, nan)), [])
    assert parsed.row_of("din")[1:3] == ["\u2013", "\u2013"]
    assert "nan" not in text


def test_what_a_run_warned_of_stands_in_its_report_once(tmp_path: Path) -> None:
    warning = {"kind": "warning", "text": "Slices are too impure for their gain to mean anything: <79%> of s3://key:secret@bucket."}
    text, _ = page(tmp_path, result("din", metrics(0.8, 0.75, 0.5), **steps()), [*records(), warning, warning])
    assert text.count("too impure for their gain") == 1
    assert "&lt;79%&gt;" in text
    assert "secret" not in text
    assert "Mind</h2>" not in page(tmp_path, result("din", metrics(0.8, 0.75, 0.5), **steps()), records())[0]


def test_what_users_wrote_is_escaped(tmp_path: Path) -> None:
    text, _ = page(tmp_path, result("<b>din</b>", metrics(0.79, 0.72, 0.54)), [], config="name: <script>alert(1)</script>\n")
    assert "<script" not in text
    assert "<b>din" not in text


def test_credentials_of_the_config_stay_out(tmp_path: Path) -> None:
    text, _ = page(tmp_path, result("din", metrics(0.79, 0.72, 0.54)), [], config="data:\n  path: s3://me:hunter2@bucket/x\n")
    assert "hunter2" not in text
    assert "s3://***@bucket/x" in text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://me:pass@bucket/a", "s3://***@bucket/a"),
        ("hdfs://me@host:8020/a", "hdfs://***@host:8020/a"),
        ("s3://me:pa/ss@word@bucket/a", "s3://***@bucket/a"),
        ("s3://b/a?region=eu&secret_key=abc&x=1", "s3://b/a?region=eu&secret_key=***&x=1"),
        ("abfs://b/a?sig=abc%3D", "abfs://b/a?sig=***"),
    ],
    ids=["nothing secret", "user and password", "user alone", "unquoted password", "secret in the query", "signature"],
)
def test_masking(uri: str, shown: str) -> None:
    assert masked(f"path: {uri}\nnext: 1") == f"path: {shown}\nnext: 1"


def test_smoothing_halves_a_weight_every_span() -> None:
    # Weights 1/2 and 1 of the first and second value, normalised.
    assert smoothed([0.0, 3.0], 1) == pytest.approx([0.0, 2.0])
    assert smoothed([5.0] * 4, 2) == pytest.approx([5.0] * 4)


def amounts(gini: float, ratio: float = 0.9) -> dict[str, float]:
    others = {"spearman": 0.5, "pay_auc": 0.7, "nrmse": 2.0, "nmae": 0.8, "decile_mape": 0.2, "total_error": abs(ratio - 1)}
    return {"norm_gini": gini, "total_ratio": ratio, "num_rows": 36_512.0} | others


def ledger(step: int) -> dict[str, Any]:
    """Slice 3 hurts and was let in for 10 of its rows at first; nothing is known of slice 7 yet."""
    columns = {"slice": [3, 7], "gain": [-0.5, None], "surprise": [0.123, None], "barred": [True, False], "weight": [0.0, 1.0]}
    columns |= {"volume": [step * 1.0, 4.0], "accepted": [10.0, 4.0]}
    figures = {"threshold": -0.3, "entry_threshold": -0.25, "num_slices": 2, "num_accepted": 1, "num_hurting": 1}
    figures |= {"num_barred": 1, "max_surprise": 0.1, "accepted_share": 0.04}
    return {"kind": "gain", "step": step} | figures | columns | {"harm": 0.2, "residual_harm": 0.1}


def test_a_run_on_amounts_shows_gini_totals_and_the_gain_of_each_slice(tmp_path: Path) -> None:
    found = [record for record in records() if record["kind"] != "valid"]
    for step in (100, 200, 300):
        found.append({"kind": "valid", "step": step, "epoch": step / 150, "best": True} | amounts(0.8))
        found.append(ledger(step))
    baselines = {"runs/spend": result("spend", amounts(0.79, 1.02))}
    logs = {"gain": last_ledger([ledger(200), ledger(300)]) | {"name": ["Gift <bags>", None]}}
    metrics = amounts(0.81) | {"vanilla_norm_gini": 0.78, "vanilla_total_ratio": 0.95}
    text, parsed = page(tmp_path, result("adsnet", metrics, **steps(), model_logs=logs), found, baselines)
    for title in ("Loss", "Validation Gini and Spearman", "Gain by slice", "Surprise by slice", "External rows let in"):
        assert f"<figcaption>{title}<" in text
    assert "step 200, Gini 0.8000, Spearman 0.5000" in text
    assert "In Gini that is 0.0200 ahead of the best baseline, spend" in text
    assert "Its predictions add up to 90.0% of what was paid" in text
    assert parsed.row_of("adsnet")[1:3] == ["0.8100", "0.5000"]
    assert parsed.row_of("its vanilla network")[1:3] == ["0.7800", "\u2013"]
    assert parsed.best[0] == "0.8100"
    assert "1.0200" in parsed.best
    assert parsed.row_of("Gift <bags> (3)") == ["Gift <bags> (3)", "-0.500", "+0.123", "300", "3%", "0%", "\u2717 left out, surprising"]
    assert parsed.row_of("7")[1:] == ["\u2013", "\u2013", "4", "100%", "\u2013", "\u2713 let in"]
    assert "1 of 2 slices are let in, 1 hurt by their gain; 4.0% of all external rows were let in" in text
    assert "Left out whatever their gain: 1, whose surprise is above 0.1" in text
    assert "-0.25 or more is let in, and stays in down to -0.3" in text
    assert "the half of the slices with the better gains still does 10% of that" in text
