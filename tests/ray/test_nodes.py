"""The preflight asks a living Ray what it has."""

import pytest
import ray

from cluster.nodes import cluster_place

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_2_cpus")]


def test_a_living_ray_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    place = cluster_place()
    assert (place.num_cpus, len(place.nodes)) == (2.0, 1)
    assert place.nodes[0].memory > place.nodes[0].store > 0
    assert place.free_cpus is not None
    assert place.free_cpus <= 2
