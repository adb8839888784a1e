"""What ``by_history:`` in STUDY.yaml breaks the comparison of arms down by. Torch-free."""

import itertools
from collections.abc import Collection
from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from raytrain.data.contract import Contract, load_contract
from raytrain.errors import ConfigError
from raytrain.metrics.bootstrap import ComparedMetric
from raytrain.settings import Section, nearest

Edges = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class HistoryPlan(Section):
    """Test rows by how many events their user's history holds before the row's time."""

    lengths: dict[str, Edges] = Field(min_length=1)
    """Domain -> where buckets begin, ascending: {target: [1, 20, 100]} makes 0, 1 to 19, 20 to 99, and 100 and more."""
    metrics: tuple[ComparedMetric, ...] = Field(default=("auc", "gauc"), min_length=1)
    """Of the data set's labels; the first is drawn."""

    @model_validator(mode="after")
    def _check_edges(self) -> Self:
        for domain, edges in self.lengths.items():
            if any(later <= earlier for earlier, later in itertools.pairwise(edges)):
                raise ValueError(
                    f"Buckets have to begin at ascending lengths. Received: by_history.lengths.{domain}={list(edges)}. Sort them."
                )
        return self


def check_by_history(plan: HistoryPlan, data_paths: Collection[str]) -> Contract:
    """The contract of the one data set whose histories are measured.

    data_paths: of every cell.

    Raises:
        ConfigError: arms have data sets of their own, a domain has no history, or the rows' group is not their user.
    """
    paths = sorted(set(data_paths))
    if len(paths) > 1:
        raise ConfigError(
            f"by_history needs arms on one data set. Received: data.path={', '.join(paths)}. Leave by_history out, or make a study of each."
        )
    contract = load_contract(paths[0])
    known = [name for name, domain in contract.domains.items() if domain.history is not None]
    for domain in plan.lengths:
        if domain not in known:
            raise ConfigError(
                f"by_history.lengths has to name domains with a history. Received: {domain}, not in {paths[0]}. {nearest(domain, known)}"
            )
    if contract.group != contract.user:
        raise ConfigError(
            "by_history finds a row's history by the group that predictions carry, which has to be the user. "
            f"Received: group={contract.group}, user={contract.user}. Prepare the data set with group={contract.user}, or leave it out."
        )
    return contract
