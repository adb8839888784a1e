"""The data set a bench reads: prepared already, or generated on first use and kept for the next."""

from rich.console import Console

from pipelines.bench_plan import BenchConfig
from raytrain.data.contract import CONTRACT_FILE, Contract, load_contract
from raytrain.data.synthetic import SyntheticSpec, generate
from raytrain.errors import ConfigError
from raytrain.storage import Storage


def ready_data(config: BenchConfig, console: Console) -> Contract:
    """The contract of ``data.path``, generated first when there is none and the config has a section ``synthetic``.

    Raises:
        ConfigError: what lies there was generated from another section.
        ContractError, DataError: there is nothing to read, or nowhere to write.
    """
    spec, path = config.synthetic, config.data.path
    if spec is None:
        return load_contract(path)
    if not Storage(path).exists(CONTRACT_FILE):
        console.print(f"generating {path}", highlight=False)
        return generate(spec, path, lambda line: console.print(line, highlight=False, markup=False))
    contract = load_contract(path)
    if _shape(contract) != _expected(spec):
        raise ConfigError(
            f"data.path has to hold what the section synthetic describes. Received: {path}, whose rows or tables are others. "
            "Choose another data.path, or delete that directory."
        )
    return contract


Shape = tuple[dict[str, int], dict[str, int], dict[str, int]]
"""(training rows by domain, table rows, history events by domain)"""


def _shape(contract: Contract) -> Shape:
    domains = contract.domains.items()
    return (
        {name: domain.splits["train"].num_rows for name, domain in domains},
        {name: table.num_rows for name, table in contract.tables.items()},
        {name: domain.history.num_events for name, domain in domains if domain.history},
    )


def _expected(spec: SyntheticSpec) -> Shape:
    names = (*spec.id_features, *(["row_id"] if spec.row_ids else []))
    num_events = spec.users * spec.events_per_user
    return (
        {name: spec.rows_of(name, "train") for name in spec.domains},
        {name: spec.ids_of(name) + 1 for name in names},
        dict.fromkeys(spec.domains, num_events) if num_events else {},
    )
