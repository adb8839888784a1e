"""The part of a data set that a run reads: one domain as the target, and spans of days as splits. Torch-free.

A data set that is kept by day has no splits of its own: a run names the days it trains on and those it is scored on, and sees a
contract like any other. What it never sees is a day outside its spans.
"""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta

from raytrain.config import DataSection, DaySpan
from raytrain.data.contract import Contract, Domain, Split, load_contract
from raytrain.errors import ConfigError, ContractError
from raytrain.settings import nearest

NUM_NAMED_DAYS = 5
"""Of the days that are missing, so many are named in a message."""


def contract_of(data: DataSection) -> Contract:
    """The contract of ``data.path`` as a run of ``data`` sees it.

    Raises:
        ContractError: there is no sound contract, or it lacks a day or the domain that ``data`` names.
        ConfigError: days are named for a data set without days, or none for one with days.
    """
    return seen(load_contract(data.path), data)


def seen(contract: Contract, data: DataSection) -> Contract:
    """``contract`` with ``data.domain`` for its target and ``data.days`` for its splits; errors as ``contract_of``."""
    if data.domain is not None:
        contract = with_target(contract, data.domain)
    by_day = any(domain.days for domain in contract.domains.values())
    if data.days is None:
        if by_day:
            raise ConfigError(
                f"A data set that is kept by day needs the days that a run trains on. Received: data.path={data.path}, data.days=null. "
                "Set data.days, or let `raytrain roll` choose them."
            )
        return contract
    if not by_day:
        raise ConfigError(
            f"data.days goes with a data set that is kept by day. Received: data.path={data.path}, kept by split. "
            "Remove data.days, or prepare the data set with split.by_day."
        )
    spans = {split: span for split in ("train", "test") if (span := getattr(data.days, split)) is not None}
    return contract.model_copy(update={"domains": {name: _spanned(contract, name, spans, data) for name in contract.domains}})


def with_target(contract: Contract, name: str) -> Contract:
    """The same data with domain ``name`` for the target and every other one for a source.

    Raises:
        ContractError: there is no such domain.
    """
    if name not in contract.domains:
        raise ContractError(f"data.domain has to be one of the data set's. Received: {name}. {nearest(name, contract.domains)}")
    roles = {other: "target" if other == name else "source" for other in contract.domains}
    domains = {other: domain.model_copy(update={"role": roles[other]}) for other, domain in contract.domains.items()}
    return contract.model_copy(update={"domains": domains})


def days_of(span: DaySpan) -> Iterator[date]:
    """Every day from ``span.start`` on, ``span.stop`` left out."""
    for number in range((span.stop - span.start).days):
        yield span.start + timedelta(days=number)


def missing_days(domain: Domain, span: DaySpan) -> list[date]:
    """Days of the span without a row of the domain."""
    return [day for day in days_of(span) if day.isoformat() not in domain.days]


def _spanned(contract: Contract, name: str, spans: Mapping[str, DaySpan], data: DataSection) -> Domain:
    domain, splits = contract.domains[name], {}
    assert data.days is not None
    for split, span in spans.items():
        if domain.role == "source" and (split != "train" or not data.source_batch_size):
            continue
        missing = missing_days(domain, span)
        if missing and (not data.days.skip_missing or split == "test"):
            named = ", ".join(day.isoformat() for day in missing[:NUM_NAMED_DAYS]) + (", ..." if len(missing) > NUM_NAMED_DAYS else "")
            raise ContractError(
                f"Domain {name} has to have rows on every day of data.days.{split}. Received: {data.path}, without {len(missing)} of "
                f"{(span.stop - span.start).days} days: {named}. Prepare them, change the span, or set data.days.skip_missing=true "
                "(of a roll: calendar.missing_days=skip)."
            )
        found = [domain.days[day.isoformat()] for day in days_of(span) if day.isoformat() in domain.days]
        if not found:
            raise ContractError(
                f"Domain {name} has to have rows on some day of data.days.{split}. Received: {data.path}, with none from {span.start} to "
                f"{span.stop}. Change the span."
            )
        splits[split] = _union(found)
    return domain.model_copy(update={"splits": splits, "days": {}})


def _union(days: list[Split]) -> Split:
    lowest = [day.min_time for day in days if day.min_time is not None]
    highest = [day.max_time for day in days if day.max_time is not None]
    return Split(
        path=days[0].path.rpartition("/")[0],
        folders=tuple(day.path for day in days),
        num_rows=sum(day.num_rows for day in days),
        num_positives=sum(day.num_positives for day in days),
        min_time=min(lowest, default=None),
        max_time=max(highest, default=None),
    )
