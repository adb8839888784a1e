"""How differently two sets of vectors are distributed: maximum mean discrepancy, and the proxy A-distance.

Shapes: N and M vectors, E their size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

BANDWIDTHS = (0.5, 1.0, 2.0)
"""Of the RBF kernels, times the median distance (our choice, as in section 4 of our notes)."""
_NUM_SPLITS = 100
_NUM_FOLDS = 5
_MAX_KERNEL_ITEMS = 2_000
"""Of each set"""
_SEED = 0


@dataclass(frozen=True)
class Discrepancy:
    """How differently two sets of vectors are distributed."""

    mmd_squared: float
    """About 0 for one distribution; below 0 by chance"""
    by_chance: float
    """95th percentile over random splits of all vectors into two sets of these sizes"""


def discrepancy(first: Tensor, second: Tensor) -> Discrepancy:
    """Unbiased squared maximum mean discrepancy (Gretton et al., JMLR 13, 2012, eq. 3) of [N, E] and [M, E] with the mean of RBF
    kernels exp(-d^2 / (2 h^2)), h being ``BANDWIDTHS`` times the median distance of all pairs of both sets."""
    everything = torch.cat([first, second]).double()
    num, length = len(everything), everything.square().sum(1)
    squared = (length[:, None] + length - 2.0 * everything @ everything.t()).clamp(min=0.0)
    median = squared[torch.ones(num, num, dtype=torch.bool).triu(1)].median()
    kernel = torch.stack([torch.exp(-squared / (2.0 * width**2 * median)) for width in BANDWIDTHS]).mean(0)
    kernel.fill_diagonal_(0.0)
    draw = np.random.default_rng(_SEED)
    is_first = np.zeros((num, 1 + _NUM_SPLITS))
    is_first[: len(first)] = 1.0
    for split in range(1, 1 + _NUM_SPLITS):
        is_first[:, split] = draw.permutation(is_first[:, split])
    found = _mmd_squared(kernel, torch.from_numpy(is_first))
    return Discrepancy(float(found[0]), float(found[1:].quantile(0.95)))


def _mmd_squared(kernel: Tensor, is_first: Tensor) -> Tensor:
    """[splits]: of each column of is_first [N + M, splits], from a kernel matrix with an empty diagonal."""
    is_second = 1.0 - is_first
    num_first, num_second = is_first.sum(0), is_second.sum(0)
    within_first = (is_first * (kernel @ is_first)).sum(0) / (num_first * (num_first - 1))
    of_second = kernel @ is_second
    within_second = (is_second * of_second).sum(0) / (num_second * (num_second - 1))
    return within_first + within_second - 2.0 * (is_first * of_second).sum(0) / (num_first * num_second)


def some(vectors: Tensor) -> Tensor:
    """A fixed draw of the rows where there are many: a kernel matrix grows with their square."""
    if len(vectors) <= _MAX_KERNEL_ITEMS:
        return vectors
    chosen = np.random.default_rng(_SEED).choice(len(vectors), _MAX_KERNEL_ITEMS, replace=False)
    return vectors[torch.from_numpy(np.sort(chosen))]


def proxy_a_distance(first: Tensor, second: Tensor) -> float:
    """2 (1 - 2 error) of a logistic regression that tells [N, E] from [M, E], each set counting one half; error of five-fold
    cross-validation: 0 for sets that nobody tells apart, 2 for ones that are never confused (Ben-David et al., NeurIPS 2006)."""
    vectors = torch.cat([first, second]).double().numpy()
    label = np.repeat([0, 1], [len(first), len(second)])
    order = np.random.default_rng(_SEED).permutation(len(label))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000, class_weight="balanced"))
    accuracy = cross_val_score(classifier, vectors[order], label[order], cv=_NUM_FOLDS, scoring="balanced_accuracy").mean()
    return max(0.0, 2.0 * (2.0 * float(accuracy) - 1.0))
