"""Where a run's records are kept while the driver has not taken them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

THREE_NODES = """
import logging
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from raytrain.training.delivery import Delivery
from raytrain.training.progress import Progress

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000})
for _ in range(2):
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
deliveries = [Delivery(Progress(None, False, Console(quiet=True))) for _ in range(8)]
places = [one.mailbox.__ray_call__.remote(lambda mailbox: ray.get_runtime_context().get_node_id()) for one in deliveries]
here = ray.get_runtime_context().get_node_id()
print([place == here for place in ray.get(places, timeout=60)])
for delivery in deliveries:
    delivery.close()
ray.shutdown()
cluster.shutdown()
"""


def test_records_wait_beside_the_driver_where_no_lost_node_takes_them() -> None:
    """A Ray of its own, in a process of its own: the tests' Ray has one node, and an actor without CPUs may be put on any."""
    done = subprocess.run([sys.executable, "-c", THREE_NODES], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert done.stdout.strip().splitlines()[-1:] == [str([True] * 8)], done.stdout + done.stderr
