"""Ranking requests made of test rows: one user, many candidate items, as a serving system would score them.

Shapes: C candidates, L events of the user, M values of a multi-valued feature.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from raytrain.data.batch import Batch
from raytrain.data.batch import Sequence as History

NUM_REQUESTS = 20
"""Different users' requests, asked over and over."""


def requests_of(batches: Sequence[Batch], user: str, num_candidates: int, num_requests: int = NUM_REQUESTS) -> Iterator[Batch]:
    """Batches of ``num_candidates`` rows, each with one row's user and history and the candidates of the rows around it.

    The history (cut to its own length, so that a short life is a short request), user id, group and time are one row's,
    repeated. Every other feature is each candidate row's own, the rest of the user's as well as the item's: a contract does
    not say whose a feature is, and it makes no difference to the work. Candidates are the batch's good rows, from the first
    again where they are too few.

    A network gets the history C times over, as it would get C different ones. Shared are the look-up of its unique items and
    what a network computes once per unique row; nothing else is cached across candidates, nor from one request to the next.

    Args:
        batches: of the test split, at least one, each with a good row.
        user: name of the user's id feature, which need not be among the features.
    """
    for number in range(num_requests):
        batch = batches[number % len(batches)]
        good = batch.weight.nonzero()[:, 0]
        candidates = good[torch.arange(num_candidates) % len(good)]
        asking = good[number * len(good) // num_requests].expand(num_candidates)
        yield Batch(
            ids={name: value[asking if name == user else candidates] for name, value in batch.ids.items()},
            dense={name: value[candidates] for name, value in batch.dense.items()},
            histories={name: _repeated(history, asking) for name, history in batch.histories.items()},
            label=batch.label[candidates],
            weight=batch.weight[candidates],
            group=batch.group[asking],
            time=batch.time[asking],
            domain=batch.domain[candidates],
        )


def _repeated(history: History, asking: Tensor) -> History:
    """[C, L] of one row, as memory of its own: a view would be read from the cache."""
    length = max(1, int(history.lengths[asking[0]]))
    return History(
        history.items[:, :length][asking],
        history.lengths[asking],
        {name: codes[:, :length][asking] for name, codes in history.side.items()},
        None if history.age_s is None else history.age_s[:, :length][asking],
    )
