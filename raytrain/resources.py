"""What a job keeps busy at one time, as arithmetic. Torch-free: the cluster's preflight asks before anything starts."""

from dataclasses import dataclass

from raytrain.config import JobConfig
from raytrain.errors import ResourceError


@dataclass(frozen=True)
class Needs:
    """What a job keeps busy at one time."""

    num_workers: int
    cpus_per_worker: float
    num_streams: int
    cpus_per_read_task: float
    num_gpus: int = 0

    @property
    def total(self) -> float:
        return self.num_workers * self.cpus_per_worker + self.num_streams * self.cpus_per_read_task

    def check(self, available: float) -> None:
        """Ray would wait for ever for a read task that never fits, so this refuses first.

        Raises:
            ResourceError: with the arithmetic.
        """
        if self.total <= available:
            return
        left = available - self.num_streams * self.cpus_per_read_task
        fitting = max(0.05, int(100 * left / self.num_workers) / 100)
        raise ResourceError(
            f"Workers and read tasks have to fit on the cluster at the same time. Received: scaling.num_workers={self.num_workers} x "
            f"scaling.cpus_per_worker={self.cpus_per_worker:g} + {self.num_streams} streams x "
            f"data.cpus_per_read_task={self.cpus_per_read_task:g} = {self.total:g} CPUs, and there are {available:g}. "
            f"Set scaling.cpus_per_worker={fitting:g}, or fewer workers."
        )


def needs_of(job: JobConfig, num_training_streams: int) -> Needs:
    """The training streams keep reading ahead while the validation stream is read.

    Of elastic workers the fewest have to fit, and their streams reserve nothing.
    """
    scaling = job.scaling
    num_gpus = scaling.min_workers if scaling.use_gpu else 0
    cpus_per_read_task = 0.0 if scaling.elastic else job.data.cpus_per_read_task
    return Needs(scaling.min_workers, scaling.cpus_per_worker, num_training_streams + 1, cpus_per_read_task, num_gpus)
