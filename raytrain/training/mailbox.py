"""The mailbox actor. Torch-free: its process imports this module alone, which keeps a run's start-up short."""

from typing import Any

import ray


@ray.remote(num_cpus=0)
class Mailbox:
    """Records on their way from rank 0 to the driver."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    def post(self, record: dict[str, Any]) -> None:
        self._records.append(record)

    def take(self) -> list[dict[str, Any]]:
        records, self._records = self._records, []
        return records
