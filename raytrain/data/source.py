"""FragmentSource: a Ray Data source whose rows are finished micro-batches, one read task a window."""

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from raytrain.data.fragments import Remaining
from raytrain.data.reader import Reading, read_window
from raytrain.data.window import Window


class FragmentSource(Datasource):
    """The windows that are left of one domain's split; a read task a window."""

    def __init__(self, reading: Reading, remaining: Remaining) -> None:
        self._reading = reading
        self._remaining = remaining

    def get_name(self) -> str:
        return "Fragments"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None) -> list[ReadTask]:
        """One task a window, whatever parallelism Ray proposes: a window is the unit of order."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(_task(self._reading, window), metadata) for window in self._remaining.windows()]


def _task(reading: Reading, window: Window) -> Callable[[], Iterator[pa.Table]]:
    return partial(read_window, reading, window)
