"""A few seeds of the slow harness, one for each kind of death, and elastic workers."""

import json
import os
import subprocess
import sys

import pytest

from tests.faults.driver import KINDS
from tests.faults.shaky_s3 import KINDS as SHAKES
from tests.faults.shaky_s3 import shaky_bucket
from tests.faults.with_ray import SETTINGS, run_seed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("seed", "kind"), [(101, KINDS[0]), pytest.param(103, KINDS[6], marks=pytest.mark.slow)], ids=str)
def test_a_killed_run_counts_every_row_once(seed, kind):
    assert kind in run_seed(seed, kinds=(kind,)).fired


@pytest.mark.slow
def test_data_is_exact_with_the_run_on_s3(s3_bucket):
    assert run_seed(105, runs=f"{s3_bucket}/faults", kinds=(KINDS[2], KINDS[4])).fired


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_data_is_exact_with_everything_on_an_s3_of_which_a_twentieth_of_the_requests_fail():
    with shaky_bucket(share=0.05, seed=1) as (uri, proxy):
        assert run_seed(106, runs=uri, kinds=(KINDS[2], KINDS[6]), data_too=True, limit_s=600.0).fired
    assert set(proxy.fired) == set(SHAKES), proxy.fired


@pytest.mark.slow
def test_workers_follow_the_nodes_and_count_every_row_once():
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.elastic"], env=os.environ | SETTINGS, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [start["world_size"] for start in json.loads(done.stdout.splitlines()[-1])] == [1, 2, 1]
