"""A manifest of files that do not exist: what planning costs at 10^7 row groups can be measured without 10^11 rows."""

import numpy as np

from raytrain.data.manifest import Manifest


def synthetic_manifest(num_files: int, row_groups_per_file: int, rows_per_row_group: int, seed: int = 0) -> Manifest:
    """Full row groups, but for the last one of each file: 1 to ``rows_per_row_group`` rows, drawn from ``seed``."""
    num_rows = np.full((num_files, row_groups_per_file), rows_per_row_group, np.int64)
    num_rows[:, -1] = np.random.default_rng(seed).integers(1, rows_per_row_group + 1, num_files)
    return Manifest(
        files=tuple(f"samples/target/train/bucket-{number:05d}.parquet" for number in range(num_files)),
        file_index=np.repeat(np.arange(num_files, dtype=np.int32), row_groups_per_file),
        row_group=np.tile(np.arange(row_groups_per_file, dtype=np.int32), num_files),
        num_rows=num_rows.reshape(-1),
    )
