"""Storage, and a chain of models, on an S3 that fails one request in twenty."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from pipelines.roll import run_roll
from raytrain.config import JobConfig
from raytrain.run import train
from raytrain.storage import Storage
from tests.faults.shaky_s3 import KINDS, shaky_bucket
from tests.faults.with_ray import copied
from tests.ray.test_roll import build_rolled, rolled_values


def test_nothing_is_lost_or_half_written() -> None:
    draw = np.random.default_rng(0)
    written: dict[str, bytes] = {}
    with shaky_bucket(share=0.08, seed=3) as (uri, proxy):
        storage = Storage(f"{uri}/runs")
        for number in range(30):
            name = f"part-{draw.integers(8)}/file-{draw.integers(3)}.bin"
            written[name] = draw.bytes(int(draw.integers(1, 50_000)))
            storage.write_bytes(name, written[name])
            seen = list(written)[number % len(written)]
            assert storage.read_bytes(seen) == written[seen]
            with storage.open_steady(seen) as file:
                file.seek(len(written[seen]) // 2)
                assert file.read() == written[seen][len(written[seen]) // 2 :]
        assert storage.list_dirs() == sorted({name.partition("/")[0] for name in written})
        for part in storage.list_dirs():
            assert storage.list_files(part) == sorted(name for name in written if name.startswith(f"{part}/"))
        assert not storage.exists("part-0/nothing")
    assert set(proxy.fired) == set(KINDS), proxy.fired


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_chain_rolls_and_goes_on_with_data_and_models_on_a_shaky_store(tmp_path: Path) -> None:
    def rolled(data: str, output: str, interrupted_at: int | None = None) -> dict[str, Any]:
        started = 0

        def train_stage(job: JobConfig, console: Console, resume: bool) -> dict[str, Any]:
            nonlocal started
            started += 1
            if started == interrupted_at:
                raise KeyboardInterrupt
            return train(job, console, resume=resume)

        values = rolled_values(data, output, in_process=True, threads_per_worker=1)
        values["base"]["training"]["deterministic"] = True
        (tmp_path / "roll.yaml").write_text(yaml.safe_dump(values))
        return run_roll(str(tmp_path / "roll.yaml"), (), Console(quiet=True), train=train_stage)

    build_rolled(tmp_path / "data")
    local = rolled(str(tmp_path / "data"), str(tmp_path / "roll"))
    with shaky_bucket(share=0.05, seed=4) as (uri, proxy):
        data = copied(str(tmp_path / "data"), f"{uri}/data")
        with pytest.raises(KeyboardInterrupt):
            rolled(data, f"{uri}/roll", interrupted_at=3)
        remote = rolled(data, f"{uri}/roll")
        manifests = [Storage(f"{uri}/roll/stages/{stage['name']}").read_text("manifest.json") for stage in remote["stages"]]
    assert set(proxy.fired) == set(KINDS), proxy.fired
    assert not remote["failed"]
    assert [json.loads(text)["kind"] for text in manifests] == ["tpm", "cpm", "actr", "actr"]
    assert remote["arms"]["full"]["days"] == local["arms"]["full"]["days"]
    assert [stage["rows"] for stage in remote["stages"]] == [stage["rows"] for stage in local["stages"]]
