"""Looking inside a run: do the levels agree, where does the click's gradient go, and what stands on the page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.lcn_consistency import level_consistency, overlap
from pipelines.lcn_gradient_reach import gradient_reach
from pipelines.lcn_look import Look, check_comparable, look_inside
from pipelines.lcn_look_report import write_look
from pipelines.lcn_partners import ItemCategory, item_slice, last_training_time, read_likes
from pipelines.lcn_recall import recall_of_run
from pipelines.lcn_run import LcnRun, interest_of, open_lcn
from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import load_contract, save_contract
from raytrain.data.micro_batches import local_micro_batches
from raytrain.data.planted import PlantedSpec, generate_planted
from raytrain.errors import RunError
from raytrain.settings import with_overrides
from raytrain.storage import Storage
from raytrain.training.checkpoint import save_checkpoint
from raytrain.training.loop import Learner, build_learner
from raytrain.training.parallel import World
from tests.data.build import START, DomainRows, Events, build_dataset, samples, write_dataset
from tests.data.served import stream_spec

HISTORIES = ("target", "source")
K1, K2 = 8, 4
single_process = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("look") / "data")
    build_dataset(path, num_users=30, num_items=20)
    return path


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("planted") / "data")
    spec = PlantedSpec(
        num_users=40, events_per_user=60, items_per_domain=24, num_topics=8, topics_per_user=4, num_rows=400, num_eval_rows=60
    )
    generate_planted(spec, path, lambda line: None, num_buckets=2)
    return path


def job_for(path: str, *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 40, "window_batches": 4, "history_length": 30},
        "model": {"name": "lcn", "median_events": K1, "focused_events": K2},
        "tables": {"backend": "local", "dim": 8, "init_std": 0.5},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


def learner_for(path: str, *overrides: str) -> Learner:
    return build_learner(job_for(path, *overrides), load_contract(path), World())


def batches_of(path: str) -> list[Batch]:
    spec = stream_spec(load_contract(path), path, 40, histories=HISTORIES, split="valid", history_length=30)
    return list(local_micro_batches(spec))[:2]


def finished(folder: Path, path: str, model: str = "lcn", **contrast: object) -> str:
    """A run directory as training leaves it, with the weights of the first step."""
    folder.mkdir()
    job, contract = job_for(path, f"model.contrast={json.dumps(contrast)}"), load_contract(path)
    learner = build_learner(job, contract, World())
    save_checkpoint(folder / "checkpoints" / "step", learner.tables, learner.network, learner.optimizer)
    config = job.model_dump(mode="json") | ({} if model == "lcn" else {"model": {"name": model}})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = {"best_checkpoint": "step", "test": {"target": {"auc": 0.5, "gauc": 0.5}}}
    (folder / "result.json").write_text(json.dumps(result))
    save_contract(contract, str(folder))
    return str(folder)


def test_overlap_by_hand():
    places = torch.tensor([[0, 2, 5], [1, 3, 4]])
    assert overlap(places, places, 6).tolist() == [1.0, 1.0]
    assert overlap(torch.tensor([[5, 4, 0], [0, 2, 5]]), places, 6).tolist() == pytest.approx([2 / 3, 0.0])
    assert overlap(torch.arange(6).expand(2, 6), places, 6).tolist() == [1.0, 1.0]


def test_levels_with_the_same_scores_agree(dataset: str):
    """One head whose query and key are the identity scores q . x / sqrt(D), and so does such a median scope."""
    same = ("model.levels=[median, focused]", "model.outputs=[median, focused]", "model.side=[]", "model.contrast.weight=0")
    learner = learner_for(dataset, *same, "model.num_heads=1", "model.attention_dim=8")
    for pyramid in interest_of(learner).pyramid.values():
        for layer in (pyramid.median_item, pyramid.focused.query, pyramid.focused.key):
            torch.nn.init.eye_(layer.weight)
    batches = batches_of(dataset)
    found = level_consistency(learner, batches)
    for domain in HISTORIES:
        lengths = torch.cat([batch.histories[domain].lengths[batch.weight > 0] for batch in batches])
        longer = lengths[lengths > K2].double()
        assert set(found[domain]) == {"median"}
        assert found[domain]["median"]["share"] == 1.0
        assert found[domain]["median"]["chance"] == pytest.approx(float((K2 / longer).mean()))
        assert found[domain]["median"]["rows_left_out_share"] == pytest.approx(1 - len(longer) / len(lengths))


def test_levels_that_know_nothing_of_each_other_agree_as_by_chance(dataset: str):
    found = level_consistency(learner_for(dataset), batches_of(dataset))["source"]
    assert set(found) == {"complete", "median", "handed_on", "complete_and_median"}
    assert found["complete"]["share"] == pytest.approx(found["complete"]["chance"], abs=0.15)
    assert found["handed_on"]["share"] > found["median"]["share"]


def test_a_focused_scope_that_nothing_trained_is_not_compared(dataset: str):
    assert level_consistency(learner_for(dataset, "model.outputs=[complete, median]"), batches_of(dataset)) == {}


def test_gradient_reaches_what_a_level_holds_and_no_further(dataset: str):
    learner, batches = learner_for(dataset), batches_of(dataset)
    before = {name: weight.clone() for name, weight in learner.tables.state_dict().items()}
    reach = gradient_reach(learner, batches)
    for domain in HISTORIES:
        lengths = torch.cat([batch.histories[domain].lengths[batch.weight > 0] for batch in batches])
        share = {way: found["events_share"] for way, found in reach[domain].items()}
        assert share["focused"] == pytest.approx(float(lengths.clamp(max=K2).sum() / lengths.sum()))
        assert share["median"] == pytest.approx(float(lengths.clamp(max=K1).sum() / lengths.sum()))
        assert share["complete"] == share["all"] == 1.0
        assert reach[domain]["focused"]["norm_share_outside_focus"] == 0.0
        assert 0.0 < reach[domain]["all"]["norm_share_outside_focus"] < 1.0
        assert reach[domain]["all"]["items_share"] == 1.0
        assert reach[domain]["focused"]["items_share"] >= share["focused"]
    # Nothing was trained by looking, and no hook is left behind.
    assert all(torch.equal(weight, before[name]) for name, weight in learner.tables.state_dict().items())
    assert not any(pyramid._forward_hooks for pyramid in interest_of(learner).pyramid.values())


def test_a_model_of_the_focused_output_reaches_what_the_cut_one_does(dataset: str):
    batches = batches_of(dataset)
    cut = gradient_reach(learner_for(dataset), batches)["target"]["focused"]
    alone = gradient_reach(learner_for(dataset, "model.outputs=[focused]"), batches)["target"]
    assert set(alone) == {"all", "focused"}
    assert alone["all"]["events_share"] == cut["events_share"]


def test_likes_are_held_out_by_each_users_last_training_row(tmp_path: Path):
    """User 1 has training rows until START + 10, user 2 has none; ratings of 4 and 5 are likes."""
    rows = samples(*(torch.tensor(values).numpy() for values in ([1, 1], [3, 4], [START, START + 10], [1, 0])))
    user, item, second, rating = ([1, 1, 1, 1, 2, 2], [3, 4, 5, 3, 3, 4], [0, 10, 11, 12, 1, 2], [5, 4, 4, 5, 4, 1])
    events = Events(*(torch.tensor(values).numpy() for values in (user, item, [START + one for one in second], rating)))
    path = str(tmp_path / "data")
    target = DomainRows({"train": rows, "valid": rows, "test": rows}, events)
    contract = write_dataset(path, {"target": target, "source": replace(target, role="source")})
    job = job_for(path, "model.contrast.pair_side={rating: [4, 5]}")
    run = LcnRun(Storage(path), job, contract, build_learner(job, contract, World()))
    until = last_training_time(run)
    assert until[1] == START + 10
    found = read_likes(run, "source", until)
    assert (found.items.tolist(), found.num_trained.tolist()) == ([3, 4], [1, 1])
    assert sorted(zip(found.user.tolist(), found.items[found.item].tolist(), strict=True)) == [(1, 3), (2, 3)]


def test_items_are_coloured_by_a_slice_of_theirs_alone(dataset: str, tmp_path: Path):
    def sliced(path: str) -> ItemCategory | None:
        contract, job = load_contract(path), job_for(path)
        return item_slice(LcnRun(Storage(path), job, contract, build_learner(job, contract, World())), contract.tables["item"].num_rows)

    # A country is of a row, not of its item, except where every item has one row.
    assert sliced(dataset) is None
    rows = samples(*(torch.tensor(values).numpy() for values in ([1, 2], [3, 4], [START, START + 1], [1, 0])))
    events = Events(*(torch.tensor(values).numpy() for values in ([1, 2], [3, 4], [START, START + 1], [5, 4])))
    target = DomainRows({"train": rows, "valid": rows, "test": rows}, events)
    write_dataset(tmp_path / "data", {"target": target, "source": replace(target, role="source")})
    found = sliced(str(tmp_path / "data"))
    assert found is not None
    assert (found.of_item[3:5].tolist(), found.of_item.sum()) == (
        rows.column("country").to_pylist(),
        sum(rows.column("country").to_pylist()),
    )
    assert found.title == "country"


@single_process
def test_a_look_at_two_runs_is_written_once_as_numbers_and_once_as_a_page(planted: str, tmp_path: Path):
    runs = [finished(tmp_path / "with", planted), finished(tmp_path / "without", planted, weight=0)]
    looks = [look_inside(run, num_batches=1, max_points=20) for run in runs]
    check_comparable(looks)
    write_look(Storage(runs[0]), [look.numbers for look in looks], [look.maps for look in looks], "the command")
    read = json.loads((tmp_path / "with" / "look.json").read_text())
    aligned = read["runs"][0]["alignment"]["source"]
    assert [one["run"] for one in read["runs"]] == ["with", "without"]
    assert aligned["num_items"] == {"source": 24, "target": 24}
    assert set(aligned["recall"]) == {"before", "after", "after_with_popularity", "popularity", "best", "random"}
    assert set(read["runs"][1]["alignment"]["source"]["recall"]) == {"before", "after", "popularity", "best", "random"}
    assert read["runs"][0]["planted_recall"]["source"]["focused"] == recall_of_run(runs[0], 1)["source"]["focused"]
    page = (tmp_path / "with" / "look.html").read_text()
    # Recall twice, one of the levels for each history, and each run's map before and after.
    assert page.count("<svg ") == 2 + 2 + 4
    assert "Planted truth" in page
    assert "without" in page
    assert "nan" not in page.lower().replace("dominan", "")


def test_runs_that_count_other_events_as_liked_are_not_compared():
    def look(run: str, **pair_side: tuple[int, ...]) -> Look:
        return Look({"run": run, "content_hash": "0", "model": {"contrast": {"pair_side": pair_side}}})

    check_comparable([look("all"), look("without")])
    with pytest.raises(RunError, match=r"one model\.contrast\.pair_side\. Received: all, liked"):
        check_comparable([look("all"), look("liked", feedback=(3,))])


@single_process
def test_a_run_of_another_model_is_refused(planted: str, tmp_path: Path):
    with pytest.raises(RunError, match=r"has to be of LCN\. Received: model\.name=din"):
        open_lcn(finished(tmp_path / "run", planted, model="din"))
