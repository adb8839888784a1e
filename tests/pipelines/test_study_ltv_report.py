"""Beside the metrics: figures by hand, the ledger's end, and what planted truth says of it."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.study import run_study
from pipelines.study_compare import FinishedCell
from pipelines.study_ltv import ledger_ends, ltv_figures
from pipelines.study_ltv_report import ltv_tables
from pipelines.study_planted import PlantedTruth, load_truth, planted_detection
from raytrain.data.planted_ltv.job import generate_planted_ltv
from raytrain.data.planted_ltv.rows import slice_roles
from raytrain.data.planted_ltv.spec import PlantedLtvSpec
from raytrain.storage import Storage
from raytrain.training.gain_log import last_ledger
from tests.data.build import build_dataset
from tests.pipelines.fake_ltv_runs import ledger, write_ltv_run, write_ltv_study
from tests.pipelines.fake_runs import FakeTrain, write_study

TRUTH = PlantedTruth(
    roles={1: "good", 2: "harmful", 3: "neutral", 4: "harmful"},
    harmful_shares={1: 0.1, 2: 0.9, 3: 0.0, 4: 1.0},
)


def finished(directory: Path, variant: str, seed: int, logs: dict[str, Any] | None = None, **metrics: float) -> FinishedCell:
    storage = Storage(str(directory / f"{variant}-{seed}"))
    return FinishedCell(variant, seed, "ads", storage, {"test": {"ads": metrics}, "model_logs": {"gain": logs} if logs else {}})


def test_figures_are_means_over_seeds_and_a_dash_where_one_is_undefined(tmp_path: Path) -> None:
    cells = [
        finished(tmp_path, "a", 0, norm_gini=0.5, total_ratio=0.8, nrmse=2.0, norm_gini_slice_0=math.nan, norm_gini_slice_10_to_99=0.2),
        finished(
            tmp_path, "a", 1, norm_gini=0.5, total_ratio=0.9, nrmse=math.nan, norm_gini_slice_0=math.nan, norm_gini_slice_10_to_99=0.4
        ),
        finished(tmp_path, "spend", 0, norm_gini=0.5, total_ratio=1.0, nrmse=3.0),
    ]
    found = ltv_figures(["a", "spend", "never"], cells)
    assert found is not None
    assert found["figures"] == ["total_ratio", "nrmse", "norm_gini_slice_0", "norm_gini_slice_10_to_99"]
    assert found["arms"]["a"] == pytest.approx(
        {"total_ratio": 0.85, "nrmse": None, "norm_gini_slice_0": None, "norm_gini_slice_10_to_99": 0.3}
    )
    (table,) = ltv_tables({"ltv": found}, ["spend", "a", "never"])
    assert table["titles"] == ["Arm", "Total ratio", "NRMSE", "Gini, 10\u201399 rows"], "no slice has 0 rows"
    assert table["rows"] == [
        ["spend", "1.000", "3.000", "\u2013"],
        ["a", "0.850", "\u2013", "0.300"],
        ["never", "\u2013", "\u2013", "\u2013"],
    ]


def test_arms_without_a_ledger_are_left_out_of_its_table(tmp_path: Path) -> None:
    cells = [finished(tmp_path, "adsnet", seed, ledger(seed)) for seed in (0, 1)] + [finished(tmp_path, "spend", 0)]
    found = ledger_ends(["adsnet", "spend"], cells, dict.fromkeys(("adsnet", "spend"), str(tmp_path)))
    (table,) = ltv_tables({"ledger": found}, ["spend", "adsnet"])
    assert table["titles"] == ["Arm", "Accepted", "Slices", "let in", "hurt", "surprise", "Harm", "left"]
    # A third, and a tenth more with the second seed.
    assert table["rows"] == [["adsnet", "38.3%", "4", "2", "2", "1", "0.250", "12.5%"]]


def test_what_a_ledger_finds_by_hand() -> None:
    found = planted_detection(ledger(0), TRUTH)
    assert (found["rank_auc"], found["helpful_auc"]) == (1.0, 1.0)
    # Of slice 1, a tenth of whose rows harm, 50 rows and 10 in the last window; of slice 3, where none does, 30 and 10.
    assert found["harmful_share"] == pytest.approx(5 / 80)
    assert found["last_harmful_share"] == pytest.approx(1 / 20)
    # Good 0.1 is above both harmful ones, neutral -0.55 above one of them.
    mixed = ledger(0) | {"gain": [0.1, -0.5, -0.55, -0.6]}
    assert planted_detection(mixed, TRUTH)["rank_auc"] == 0.75
    assert planted_detection(mixed, TRUTH)["helpful_auc"] == 1.0
    # A gain above all others does not raise what surprises.
    surprising = ledger(0) | {"gain": [0.1, -0.5, -0.1, 0.6]}
    found = planted_detection(surprising, TRUTH)
    assert (found["rank_auc"], found["helpful_auc"], found["gain_auc"]) == (1.0, 1.0, 0.5)


def test_a_slice_without_a_gain_is_ranked_nowhere_and_its_rows_count() -> None:
    partial = ledger(0) | {"gain": [None, -0.5, -0.6, -0.4], "barred": [False] * 4, "accepted": [0.0, 5.0, 0.0, 5.0]}
    found = planted_detection(partial, TRUTH)
    assert found["rank_auc"] == 0.0
    assert math.isnan(found["helpful_auc"]), "no good slice has a gain"
    assert found["harmful_share"] == pytest.approx(0.95)


def test_nothing_let_in_is_no_share() -> None:
    found = planted_detection(ledger(0) | {"window_accepted": [0.0] * 4}, TRUTH)
    assert math.isnan(found["last_harmful_share"])
    assert found["harmful_share"] > 0


def test_truth_is_read_from_the_data_set(tmp_path: Path) -> None:
    spec = PlantedLtvSpec(num_rows=100, num_probe_rows=20, num_eval_rows=20, num_slices=4, purity=0.8, neutral_share=0.25)
    generate_planted_ltv(spec, str(tmp_path / "data"), lambda line: None, num_buckets=1)
    truth = load_truth(str(tmp_path / "data"))
    assert truth is not None
    assert list(truth.roles.values()) == slice_roles(spec).tolist()
    for number, role in truth.roles.items():
        wanted = {"good": 0.2, "harmful": 0.8, "neutral": 0.0}[role]
        assert truth.harmful_shares[number] == pytest.approx(wanted, abs=0.15), "of 125 rows"


def test_a_data_set_without_truth_of_slices_has_none(tmp_path: Path) -> None:
    build_dataset(tmp_path / "data")
    assert load_truth(str(tmp_path / "data")) is None


def test_a_window_is_what_came_since_the_record_before() -> None:
    first = {"kind": "gain", "step": 1, "slice": [3], "volume": [10.0], "accepted": [4.0]}
    last = {"kind": "gain", "step": 2, "slice": [3, 5], "volume": [30.0, 7.0], "accepted": [4.0, 7.0]}
    found = last_ledger([first, last])
    assert (found["window_volume"], found["window_accepted"]) == ([20.0, 7.0], [0.0, 7.0])
    assert last_ledger([first])["window_accepted"] == [4.0]
    assert "kind" not in found


def test_planted_truth_adds_what_the_ledger_found(tmp_path: Path) -> None:
    spec = PlantedLtvSpec(num_rows=100, num_probe_rows=20, num_eval_rows=20, num_slices=4, neutral_share=0.25)
    generate_planted_ltv(spec, str(tmp_path / "data"), lambda line: None, num_buckets=1)
    # Which slices harm is the seed's choice: the gains follow it.
    gains = [{"good": 0.1, "neutral": 0.0, "harmful": -0.5}[role] for role in slice_roles(spec).tolist()]
    logs = ledger(0) | {name: [float(gain > -0.3) for gain in gains] for name in ("accepted", "window_accepted")} | {"gain": gains}
    found = ledger_ends(["adsnet"], [finished(tmp_path, "adsnet", 0, logs)], {"adsnet": str(tmp_path / "data")})
    assert found is not None
    assert {name: found["arms"]["adsnet"][name] for name in ("rank_auc", "helpful_auc", "harmful_share")} == {
        "rank_auc": 1.0,
        "helpful_auc": 1.0,
        "harmful_share": 0.0,
    }
    (table,) = ltv_tables({"ledger": found}, ["adsnet"])
    assert table["titles"][-6:] == ["AUC", "helpful alone", "by gain alone", "Harmful let in", "worst seed", "last window"]
    assert table["rows"][0][-6:] == ["1.000", "1.000", "1.000", "0.0%", "0.0%", "0.0%"]


def test_the_seed_that_lets_in_most_harm_is_not_averaged_away(tmp_path: Path) -> None:
    spec = PlantedLtvSpec(num_rows=100, num_probe_rows=20, num_eval_rows=20, num_slices=4, neutral_share=0.25)
    generate_planted_ltv(spec, str(tmp_path / "data"), lambda line: None, num_buckets=1)
    harmful = [float(role == "harmful") for role in slice_roles(spec).tolist()]
    # Of the second seed's rows let in, one harmful slice's and three times as many of a good one.
    some = [3.0 * (1 - harm) for harm in harmful]
    worst = [one or float(number == harmful.index(1.0)) * sum(some) / 3 for number, one in enumerate(some)]
    cells = [finished(tmp_path, "adsnet", seed, ledger(0) | {"accepted": let_in}) for seed, let_in in ((0, some), (1, worst))]
    found = ledger_ends(["adsnet"], cells, {"adsnet": str(tmp_path / "data")})
    assert found is not None
    assert found["arms"]["adsnet"]["harmful_share"] == pytest.approx(0.125)
    assert found["arms"]["adsnet"]["worst_harmful_share"] == pytest.approx(0.25)


def test_a_study_of_amounts_keeps_and_shows_both(tmp_path: Path) -> None:
    result = run_study(write_ltv_study(tmp_path), "quick", (), Console(file=io.StringIO()), FakeTrain(write=write_ltv_run))
    assert result["ltv"]["arms"].keys() == {"adsnet", "mix"}
    assert list(result["ledger"]["arms"]) == ["adsnet"]
    output = tmp_path / "work/quick"
    assert json.loads((output / "result.json").read_text()) == result
    written = (output / "result.md").read_text()
    assert "| Arm | Total ratio | NRMSE | NMAE | Decile MAPE |" in written
    assert "| adsnet | 33.3% | 4 | 2 | 2 | 1 | 0.250 | 12.5% |" in written
    page = (output / "result.html").read_text()
    assert "<h2>Level and error</h2>" in page
    assert "<h2>Gain ledger</h2>" in page


def test_a_study_of_clicks_has_neither(tmp_path: Path) -> None:
    result = run_study(write_study(tmp_path), "quick", (), Console(file=io.StringIO()), FakeTrain())
    assert not {"ltv", "ledger"} & result.keys()
