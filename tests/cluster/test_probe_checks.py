"""What the torch process wrote down, judged."""

import pytest

from cluster.apart import Outcome, run_apart
from cluster.checks import Check
from cluster.probe_checks import probe_checks
from raytrain.config import JobConfig
from raytrain.machine import GIB

BATCH = {
    "stage": "train/ads",
    "num_rows": 64,
    "num_bad": 0,
    "label_rate": 0.25,
    "ids": {"user": {"shape": [64], "unknown_share": 0.0}, "zip": {"shape": [64], "unknown_share": 0.125}},
    "dense": {"price": [64]},
    "histories": {"feed": {"shape": [64, 20], "lengths": [0, 7, 20]}},
    "rows": [{"label": 1.0, "user": 5, "zip": 0}],
}
TORCH = {"stage": "torch", "version": "2.13.0+cpu", "cuda": None, "num_gpus": 0}


def judged(*records: dict, ended: str = "", words: str = "", needs_fbgemm: bool = True, overrides: dict | None = None) -> dict[str, Check]:
    job = JobConfig.parse({"data": {"path": "x"}, "model": {"name": "din"}, **(overrides or {})}, "test")
    return {check.name: check for check in probe_checks(Outcome(records, ended, words), job, needs_fbgemm, GIB)}


def test_a_batch_is_shown_with_its_shapes_rates_and_rows():
    check = judged(BATCH)["train/ads"]
    assert check.status == "ok"
    assert check.found.splitlines() == [
        "64 rows, 0 bad; label rate 0.250",
        "[64] user, zip, price",
        "share of id 0: zip 12.5%, none in the others",
        "history of feed [64, 20]: 0 to 20 events, median 7",
        "label=1, user=5, zip=0",
    ]


def test_of_many_features_the_first_are_named():
    dense = {f"asof_{number}": [64] for number in range(20)}
    assert "[64] user, zip, asof_0, " in judged(BATCH | {"dense": dense})["train/ads"].found
    assert "asof_9 and 10 more" in judged(BATCH | {"dense": dense})["train/ads"].found


DOUBTS = {
    "bad rows": ({"num_bad": 3}, "3 rows would be quarantined"),
    "one class": ({"label_rate": 0.0}, "every label is the same"),
    "unknown ids": ({"ids": {"zip": {"shape": [64], "unknown_share": 0.75}}}, "75.0% of zip are id 0, unknown"),
    "empty histories": ({"histories": {"feed": {"shape": [64, 1], "lengths": [0, 0, 0]}}}, "every history of feed is empty"),
}


@pytest.mark.parametrize(("change", "doubt"), DOUBTS.values(), ids=DOUBTS)
def test_a_batch_that_teaches_nothing_is_a_warning(change: dict, doubt: str):
    check = judged(BATCH | change)["train/ads"]
    assert (check.status, check.found.splitlines()[0]) == ("warn", doubt)
    assert check.fix


def test_a_batch_of_bad_rows_alone_has_no_label_rate():
    assert "label rate undefined" in judged(BATCH | {"num_bad": 64, "label_rate": None})["train/ads"].found


def test_gpus_that_torch_cannot_use_are_a_failure():
    check = judged(TORCH, overrides={"scaling": {"use_gpu": True}})["torch"]
    assert (check.status, "raytrain[cuda]" in check.fix) == ("fail", True)
    check = judged(TORCH | {"cuda": "13.0", "num_gpus": 1}, overrides={"scaling": {"use_gpu": True}})["torch"]
    assert (check.status, check.found) == ("ok", "torch 2.13.0+cpu loads, built for CUDA 13.0, 1 GPU(s)")


@pytest.mark.parametrize(("needs_fbgemm", "status"), [(True, "fail"), (False, "warn")], ids=["sharded tables", "local tables"])
def test_fbgemm_matters_to_jobs_that_shard(needs_fbgemm: bool, status: str):
    broken = {"stage": "fbgemm", "error": "tables.backend=sharded has to have torchrec. Received: no such file. On CPU run: pip."}
    assert judged(broken, needs_fbgemm=needs_fbgemm)["fbgemm"].status == status
    assert judged({"stage": "fbgemm", "moved": False}, needs_fbgemm=needs_fbgemm)["fbgemm"].status == status
    assert judged({"stage": "fbgemm", "moved": True})["fbgemm"].status == "ok"


def test_a_death_is_laid_at_the_door_of_the_stage_it_struck():
    records = ({"begin": "torch"}, TORCH, {"begin": "fbgemm"})
    check = judged(*records, ended="was killed by SIGILL", words="Illegal instruction")["fbgemm"]
    assert (check.status, check.found) == ("fail", "the process was killed by SIGILL: Illegal instruction")
    assert "fbgemm-gpu-cpu==1.8.0" in check.fix
    check = judged(ended="exited with 1", words="ImportError: libtorch.so")["torch"]
    assert (check.status, check.found) == ("fail", "the process exited with 1: ImportError: libtorch.so")


def test_a_baseline_larger_than_what_is_free_is_a_warning():
    check = judged({"stage": "memory", "num_bytes": 2 * GIB, "num_rows": 1000})["memory"]
    assert (check.status, check.found) == ("warn", "1,000 samples and history events = at most 2.0 GiB, and 1.0 GiB are available")


def test_a_process_of_its_own_is_cut_off_and_heard_out(tmp_path, monkeypatch):
    (tmp_path / "talker.py").write_text(
        "import json, pathlib, sys, time\n"
        "text = pathlib.Path(sys.argv[2]).read_text()\n"
        "pathlib.Path(sys.argv[1]).write_text(json.dumps({'begin': text}) + '\\n')\n"
        "print('noise'); print('last words', file=sys.stderr, flush=True)\n"
        "time.sleep(60 if text == 'slow' else 0); sys.exit(3 if text == 'bad' else 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_apart("talker", {"input": "good"}, 30) == Outcome(({"begin": "good"},), "", "last words")
    assert run_apart("talker", {"input": "bad"}, 30) == Outcome(({"begin": "bad"},), "exited with 3", "last words")
    assert run_apart("talker", {"input": "slow"}, 2) == Outcome(({"begin": "slow"},), "was not done after 2 s", "last words")
