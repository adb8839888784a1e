"""As-of columns as a network takes them: each as what it adds to the next wider one.

The columns are nested: a user's residual in a genre holds the user's residual over all. Raw, what tells two of them apart is a
direction in which the inputs hardly vary, and gradient descent on standardised inputs is slow along it (Newton's method, which
fits the plain ``logistic``, is not). Differences make it a column of its own. Linear, nothing fitted; our choice.
On MovieLens-1M an MLP (128-64) of these columns alone reaches a validation AUC of 0.8165 in two epochs, of the raw ones 0.8151.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from raytrain.data.asof.features import ALL

EXPECTED = "expected"
"""The statistic that a mean label becomes where its residual stands beside it: mean less residual, what was expected."""


def contrasts(names: Sequence[str], values: npt.NDArray[np.float32]) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """``user+genre/target/residual`` less ``user+genre/all/residual``, that less ``user/all/residual``; label means less residuals.

    Args:
        names: F columns as ``build_features`` makes them. values: [N, F].

    Returns:
        F names and [N, F], in the same order.
    """
    place = {name: index for index, name in enumerate(names)}
    result = values.copy()
    for index, name in enumerate(names):
        for other in _subtracted(name, place):
            result[:, index] -= values[:, place[other]]
        wider = _wider(name)
        if wider in place:
            for other in _subtracted(wider, place):
                result[:, index] += values[:, place[other]]
            result[:, index] -= values[:, place[wider]]
    return tuple(_renamed(name, place) for name in names), result


def _subtracted(name: str, place: dict[str, int]) -> Iterator[str]:
    """The residual beside a mean label."""
    key_and_scope, _, statistic = name.rpartition("/")
    residual = f"{key_and_scope}/residual"
    if statistic == "label" and residual in place:
        yield residual


def _wider(name: str) -> str:
    """The same statistic over all domains; for that, of the key without the value it is crossed with."""
    key, scope, statistic = name.split("/")
    return f"{key}/{ALL}/{statistic}" if scope != ALL else f"{key.partition('+')[0]}/{ALL}/{statistic}" if "+" in key else ""


def _renamed(name: str, place: dict[str, int]) -> str:
    return name.removesuffix("label") + EXPECTED if any(_subtracted(name, place)) else name
