"""The tables of ADSNet's two networks, read off config and contract. Torch-free."""

from collections.abc import Sequence
from dataclasses import replace

from raytrain.adsnet_config import AdsnetModel, BackboneModel, GainSection
from raytrain.config import JobConfig
from raytrain.data.contract import PROBE, Contract
from raytrain.embeddings.config import TableConfig
from raytrain.errors import ContractError
from raytrain.models.baselines.declarations import feature_tables

VANILLA, GAIN = "vanilla/", "gain/"
"""What a table's name begins with: whose it is. The rest is the id space's name in the contract."""


def backbone_histories(model: BackboneModel, contract: Contract) -> tuple[str, ...]:
    return ()


def backbone_tables(model: BackboneModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    """Every id space that a feature uses, once."""
    return feature_tables(job, contract, model.skip_features)


def adsnet_tables(model: AdsnetModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    """Every id space that a feature uses, twice: the vanilla network's tables, then the gain network's in the same order.

    Initial rows are a function of the name, so the two differ until the first alignment copies them.
    """
    tables = feature_tables(job, contract, model.skip_features)
    vanilla = tuple(replace(table, name=VANILLA + table.name) for table in tables)
    return vanilla + tuple(replace(table, name=GAIN + table.name, beside=VANILLA + table.name) for table in tables)


def table_pairs(configs: Sequence[TableConfig]) -> tuple[tuple[str, str], ...]:
    """(vanilla table, gain table) of each id space: what alignment copies between."""
    spaces = [config.name.removeprefix(VANILLA) for config in configs if config.name.startswith(VANILLA)]
    return tuple((VANILLA + space, GAIN + space) for space in spaces)


def needs_probe(gain: GainSection) -> bool:
    """Whether gain is measured on rows held out of training."""
    by_first_order = gain.estimator in ("ledger", "grad")
    return gain.estimator in ("siamese", "lookahead") or (by_first_order and "held_out" in (gain.probe, gain.reference))


def check_head(model: BackboneModel, contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError where the head is of other labels than the data set's."""
    if (model.head.kind == "click") != (contract.amount is None):
        kind = "clicks" if contract.amount is None else f"amounts in {contract.amount.currency}"
        heads = "click" if contract.amount is None else "ordinal, ziln or mse"
        raise ContractError(
            f"model.head.kind has to be of the data set's labels, which are {kind}. Received: {model.head.kind}. Set it to {heads}."
        )


def check_labels_and_probe(model: AdsnetModel, contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError where the head is of other labels than the data set's, or rows to measure gain on are missing."""
    check_head(model, contract, histories)
    if needs_probe(model.gain) and PROBE not in contract.domains[contract.target].splits:
        raise ContractError(
            f"Held-out rows to measure gain on have to be a split {PROBE} of domain {contract.target}. Received: "
            f"model.gain.estimator={model.gain.estimator}, model.gain.probe={model.gain.probe}, "
            f"model.gain.reference={model.gain.reference}, splits {', '.join(contract.domains[contract.target].splits)}. Prepare the data "
            "set with probe_share=0.1, or set model.gain.estimator=ledger, model.gain.probe=internal and model.gain.reference=zero."
        )
