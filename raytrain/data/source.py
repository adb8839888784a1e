"""FragmentSource: a Ray Data source whose rows are finished micro-batches, one read task a window."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from raytrain.data.fragments import FragmentPlan, Window
from raytrain.data.reader import Reading, read_window


class FragmentSource(Datasource):
    """Windows of one domain's split, epoch after epoch; a read task a window."""

    def __init__(self, reading: Reading, plan: FragmentPlan, epochs: Iterable[int], num_batches: int | None = None) -> None:
        """``num_batches`` ends the stream early, counted over all epochs."""
        self._reading = reading
        self._plan = plan
        self._epochs = tuple(epochs)
        self._num_batches = num_batches

    def get_name(self) -> str:
        return "Fragments"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None) -> list[ReadTask]:
        """One task a window, whatever parallelism Ray proposes: a window is the unit of order."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(_task(self._reading, window), metadata) for window in self.windows()]

    def windows(self) -> Iterator[Window]:
        left = self._num_batches
        for epoch in self._epochs:
            yield from self._plan.windows(epoch, left)
            if left is not None:
                left -= min(left, self._plan.num_batches)
                if left == 0:
                    return


def _task(reading: Reading, window: Window) -> Callable[[], Iterator[pa.Table]]:
    return partial(read_window, reading, window)
