"""The tables of ADSNet's two networks, read off config and contract. Torch-free."""

from collections.abc import Sequence
from dataclasses import replace

from raytrain.adsnet_config import AdsnetModel
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.embeddings.config import TableConfig
from raytrain.models.baselines.declarations import feature_tables

VANILLA, GAIN = "vanilla/", "gain/"
"""What a table's name begins with: whose it is. The rest is the id space's name in the contract."""


def adsnet_histories(model: AdsnetModel, contract: Contract) -> tuple[str, ...]:
    return ()


def adsnet_tables(model: AdsnetModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    """Every id space that a feature uses, twice: the vanilla network's tables, then the gain network's in the same order.

    Initial rows are a function of the name, so the two differ until the first alignment copies them.
    """
    tables = feature_tables(job, contract, model.skip_features)
    return tuple(replace(table, name=prefix + table.name) for prefix in (VANILLA, GAIN) for table in tables)


def table_pairs(configs: Sequence[TableConfig]) -> tuple[tuple[str, str], ...]:
    """(vanilla table, gain table) of each id space: what alignment copies between."""
    spaces = [config.name.removeprefix(VANILLA) for config in configs if config.name.startswith(VANILLA)]
    return tuple((VANILLA + space, GAIN + space) for space in spaces)
