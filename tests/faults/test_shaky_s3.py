"""Storage on an S3 that fails one request in twenty."""

import numpy as np

from raytrain.storage import Storage
from tests.faults.shaky_s3 import KINDS, shaky_bucket


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
