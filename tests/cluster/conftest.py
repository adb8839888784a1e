"""A data set to look at, and no cluster that the caller's shell happens to name."""

import pytest

from tests.data.build import build_dataset


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("doctor") / "data")
    build_dataset(path, num_users=60, num_items=40)
    return path
