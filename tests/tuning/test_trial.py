"""A trial hands its evaluations out one by one and ends when it is told to, whatever its runs do."""

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from raytrain.run import Watch
from tuning.plan import Task
from tuning.tasks import Pulse, Values
from tuning.trial import SeedRuns


def task(seed: int) -> Task:
    return {"kind": "fake", "seed": seed}


class FakeRuns:
    """Does a task by posting evaluations; remembers how far each run was let."""

    def __init__(self, curves: dict[int, list[float]]) -> None:
        self._curves = curves
        self.epochs: dict[int, int] = {}

    def __call__(self, task: Task, watch: Watch, pulse: Pulse, objectives: Sequence[str]) -> Values:
        seed = task["seed"]
        curve = self._curves[seed]
        for epoch, auc in enumerate(curve, start=1):
            self.epochs[seed] = epoch
            best = not math.isnan(auc) and auc == max(value for value in curve[:epoch] if not math.isnan(value))
            if not watch({"kind": "valid", "step": 10 * epoch, "epoch": float(epoch), "auc": auc, "best": best}):
                break
        seen = [auc for auc in curve[: self.epochs[seed]] if not math.isnan(auc)]
        return {"auc": max(seen, default=math.nan), "train_s": 3.0}


def runs_of(fake: FakeRuns, seeds: tuple[int, ...] = (0,), **options: Any) -> SeedRuns:
    return SeedRuns([task(seed) for seed in seeds], ["auc", "train_s"], options.pop("limit_s", 30.0), run_one=fake, **options)


def test_each_step_lasts_from_one_evaluation_to_the_next_and_the_last_gives_the_means_over_seeds() -> None:
    fake = FakeRuns({0: [0.6, 0.5, 0.7], 1: [0.8]})
    runs = runs_of(fake, (0, 1))
    told = [runs.next() for _ in range(4)]
    assert [(event["evaluations"], event["epoch"], event["auc"], event["done"]) for event in told[:3]] == [
        (1, 1.0, 0.6, False),
        (2, 2.0, 0.6, False),
        (3, 3.0, 0.7, False),
    ]
    assert told[3]["status"] == "finished"
    assert told[3]["done"]
    assert told[3]["auc"] == pytest.approx(0.75)
    assert told[3]["train_s"] == pytest.approx(3.0)
    assert told[3]["seed_values"] == [{"auc": 0.7, "train_s": 3.0}, {"auc": 0.8, "train_s": 3.0}]


def test_a_run_waits_at_its_evaluation_and_ends_there_when_the_trial_does() -> None:
    fake = FakeRuns({0: [0.6, 0.5, 0.7], 1: [0.8]})
    runs = runs_of(fake, (0, 1))
    assert runs.next()["evaluations"] == 1
    assert runs.end(10.0)
    assert fake.epochs == {0: 1}


def test_a_run_that_fails_is_a_result_with_its_error() -> None:
    runs = runs_of(FakeRuns({}))
    told = runs.next()
    assert (told["status"], told["done"], told["error"]) == ("failed", True, "KeyError: 0")
    assert math.isnan(told["auc"])


def test_credentials_in_an_error_are_masked() -> None:
    def fail(*_: Any) -> Values:
        raise OSError("no bucket at s3://key:secret@bucket/data")

    told = SeedRuns([task(0)], ["auc"], 30.0, run_one=fail).next()
    assert "secret" not in told["error"]
    assert "s3://***@bucket" in told["error"]


def test_a_run_whose_metric_is_nan_has_failed() -> None:
    runs = runs_of(FakeRuns({0: [math.nan]}))
    assert runs.next()["status"] == "running"
    told = runs.next()
    assert (told["status"], told["error"]) == ("failed", "auc of the validation split is NaN")


def test_a_run_that_says_nothing_is_given_up() -> None:
    released = threading.Event()

    def hang(*_: Any) -> Values:
        released.wait(30.0)
        return {"auc": 0.5}

    runs = SeedRuns([task(0)], ["auc"], 0.1, run_one=hang)
    told = runs.next()
    assert (told["status"], told["error"]) == ("failed", "no sign of life for 0 s; raise silence_limit_s if steps take longer")
    assert not runs.end(0.1)
    released.set()
    assert runs.end(10.0)


def test_after_a_kill_of_the_sweep_evaluations_are_counted_on_and_none_is_given_twice() -> None:
    fake = FakeRuns({0: [0.6, 0.65, 0.64]})
    runs = runs_of(fake, so_far={"evaluations": 1, "epoch": 1.0, "auc": 0.6})
    told = runs.next()
    assert (told["evaluations"], told["epoch"], told["auc"]) == (2, 2.0, 0.65)


def test_stages_of_a_roll_are_no_silence() -> None:
    """Three waits of 0.2 s each, under a limit of 0.3 s."""

    def stages(task: Task, watch: Watch, pulse: Pulse, objectives: Sequence[str]) -> Values:
        for _ in range(3):
            time.sleep(0.2)
            assert pulse()
        return {"gauc": 0.7}

    told = SeedRuns([task(0)], ["gauc"], 0.3, run_one=stages).next()
    assert (told["status"], told["gauc"], told["evaluations"]) == ("finished", 0.7, 0)


def test_a_trial_that_has_ended_begins_no_other_stage() -> None:
    begun, stages = threading.Event(), []

    def roll(task: Task, watch: Watch, pulse: Pulse, objectives: Sequence[str]) -> Values:
        while pulse():
            stages.append(1)
            begun.set()
            time.sleep(0.05)
        return {"gauc": 0.7}

    runs = SeedRuns([task(0), task(1)], ["gauc"], 30.0, run_one=roll)
    assert begun.wait(10.0)
    assert runs.end(10.0)
    num_stages = len(stages)
    time.sleep(0.2)
    assert len(stages) == num_stages


def test_an_evaluation_that_does_not_count_is_not_what_a_trial_is_judged_by() -> None:
    """A network that is still warming up scores well on validation, and would not be served."""

    def warming_up(task: Task, watch: Watch, pulse: Pulse, objectives: Sequence[str]) -> Values:
        for epoch, (auc, best) in enumerate([(0.9, False), (0.7, True)], start=1):
            watch({"kind": "valid", "step": epoch, "epoch": float(epoch), "auc": auc, "best": best})
        return {"auc": 0.7}

    runs = SeedRuns([task(0)], ["auc"], 30.0, run_one=warming_up)
    told = [runs.next() for _ in range(3)]
    assert math.isnan(told[0]["auc"])
    assert [event["auc"] for event in told[1:]] == [0.7, 0.7]
