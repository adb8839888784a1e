"""The mailbox actor. Torch-free: its process imports this module alone, which keeps a run's start-up short."""

from typing import Any

import ray


@ray.remote(num_cpus=0)
class Mailbox:
    """Records on their way from rank 0 to the driver, and a watcher's answers on the way back."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._answers: dict[int, bool] = {}

    def post(self, record: dict[str, Any]) -> None:
        self._records.append(record)

    def take(self) -> list[dict[str, Any]]:
        records, self._records = self._records, []
        return records

    def answer(self, step: int, go_on: bool) -> None:
        self._answers[step] = go_on

    def answer_at(self, step: int) -> bool | None:
        """Whether training goes on after the evaluation of ``step``; null while nobody has said."""
        return self._answers.get(step)
