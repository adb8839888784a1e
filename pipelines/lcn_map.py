"""Items of two domains as points of a plane: t-SNE of their vectors before and after the contrastive projection.

Shapes: N items shown, E size of a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from pipelines.lcn_alignment import DomainVectors
from pipelines.lcn_partners import Ints, ItemCategory, Likes, Partners, popular

_SEED = 0


@dataclass(frozen=True)
class ItemMap:
    """What is shown, and where."""

    places: dict[str, npt.NDArray[np.float64]]
    """space (``before``, ``after``) -> [N, 2]"""
    is_target: npt.NDArray[np.bool_]
    """[N]; an item of both domains is shown once in each"""
    category: Ints | None = None
    """int64 [N], 0 for none"""
    category_names: dict[int, str] = field(default_factory=dict)
    category_title: str = ""
    """What the categories are"""


def item_map(vectors: Mapping[str, DomainVectors], found: Partners, max_items: int, category: ItemCategory | None = None) -> ItemMap:
    """The ``max_items`` / 2 items of each domain that training saw liked most often.

    Args:
        category: of every item of the table, to colour by.
    """
    shown = [popular(domain, max_items // 2) for domain in (found.source, found.target)]
    chosen = [_index(domain, part) for domain, part in zip((found.source, found.target), shown, strict=True)]
    places = {name: plane(torch.cat([space.source[chosen[0]], space.target[chosen[1]]])) for name, space in vectors.items()}
    is_target = np.repeat([False, True], [len(part.items) for part in shown])
    ids = np.concatenate([part.items for part in shown])
    if category is None:
        return ItemMap(places, is_target)
    return ItemMap(places, is_target, category.of_item[ids], category.names, category.title)


def plane(vectors: Tensor) -> npt.NDArray[np.float64]:
    """[N, E] -> [N, 2] by t-SNE (van der Maaten & Hinton, JMLR 9, 2008); the same vectors give the same points."""
    perplexity = min(30.0, max(1.0, (len(vectors) - 1) / 3))
    found = TSNE(init="pca", perplexity=perplexity, random_state=_SEED, n_jobs=1).fit_transform(vectors.numpy())
    return np.asarray(found, dtype=np.float64)


def _index(domain: Likes, shown: Likes) -> Tensor:
    return torch.from_numpy(np.searchsorted(domain.items, shown.items))
