"""Recall against a planted truth: what counts as relevant, as kept, and that training finds it."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipelines.lcn_recall import level_recall, topics_of
from raytrain.config import JobConfig
from raytrain.data.contract import load_contract
from raytrain.data.micro_batches import joined, local_micro_batches
from raytrain.data.planted import PlantedSpec, generate_planted
from raytrain.training.loop import build_learner, train_step
from raytrain.training.parallel import World
from tests.data.served import stream_spec

NUM_STEPS = 120


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("planted") / "data")
    spec = PlantedSpec(
        num_users=120, events_per_user=120, items_per_domain=80, num_topics=16, topics_per_user=12, num_rows=4_000, num_eval_rows=200
    )
    generate_planted(spec, path, lambda line: None, num_buckets=2)
    return path


def job_for(path: str) -> JobConfig:
    model = {"name": "lcn", "skip_features": ["user"], "median_events": 40, "focused_events": 20}
    return JobConfig.parse(
        {
            "data": {"path": path, "batch_size": 100, "history_length": 120},
            "model": model | {"contrast": {"weight": 1.0, "target_events": 4, "recent_events": 120}},
            "tables": {"backend": "local", "lr": 0.1},
            "optimizer": {"lr": 0.005},
        },
        "test",
    )


def test_training_with_contrast_finds_the_events_that_decide(dataset: str) -> None:
    job, contract = job_for(dataset), load_contract(dataset)
    histories = ("target", "source")
    train = replace(stream_spec(contract, dataset, 100, histories, history_length=120), event_ages=True, epochs=(0, 1, 2, 3))
    valid = list(local_micro_batches(stream_spec(contract, dataset, 100, histories, split="valid", shuffle=False, history_length=120)))
    topics = topics_of(dataset, "item", contract.tables["item"].num_rows)
    learner = build_learner(job, contract, World())
    before = level_recall(learner, valid, topics)
    learner.network.train()
    for step, batch in enumerate(islice(joined([local_micro_batches(train)]), NUM_STEPS)):
        train_step(job, learner, batch, step, NUM_STEPS)
    after = level_recall(learner, valid, topics)
    for domain in histories:
        assert set(after[domain]) == {"median", "focused", "newest", "random", "popular"}
        assert after[domain]["focused"] > 0.8
        assert after[domain]["focused"] > before[domain]["focused"] + 0.2
        assert after[domain]["focused"] <= after[domain]["median"]
        # 20 of up to 120 events, chosen without knowledge.
        assert after[domain]["random"] == pytest.approx(20 / 110, abs=0.06)


def test_topics_are_read_by_id(dataset: str, tmp_path: Path) -> None:
    topics = topics_of(dataset, "item", load_contract(dataset).tables["item"].num_rows)
    assert topics[0] == -1
    assert torch.unique(topics[1:]).tolist() == list(range(16))
