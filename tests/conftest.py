"""Servers that tests share: started on first use, one a session."""

import logging
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# How often Ray Train looks at its workers: a tiny run is over before the 2 s of its default.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

# Two threads on two cores wait for each other whenever anything else runs: ten times slower under load.
torch.set_num_threads(1)


# A time limit for an example would fail on a busy machine.
settings.register_profile("raytrain", deadline=None)
settings.load_profile("raytrain")


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """An empty bucket on a local S3 endpoint, which the environment names as it would on a cluster."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="raytrain")
    yield "s3://raytrain"
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.stop()


@pytest.fixture(scope="session")
def ray_2_cpus(s3_bucket: str) -> Iterator[None]:
    """One quiet local Ray of two CPUs for every test that asks; its workers inherit the S3 endpoint."""
    import ray

    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    if started:
        ray.shutdown()
