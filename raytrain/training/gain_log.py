"""The gain ledger as metrics.jsonl has it: records of kind "gain", each with a column entry a slice."""

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def last_ledger(records: Sequence[Record]) -> dict[str, Any]:
    """The last of the records, at least one, with window_volume and window_accepted by slice: what came, and was let in, since the
    one before."""
    last, before = records[-1], records[-2] if len(records) > 1 else {"slice": (), "volume": (), "accepted": ()}
    window = {}
    for name in ("volume", "accepted"):
        earlier = dict(zip(before["slice"], before[name], strict=True))
        window[f"window_{name}"] = [value - earlier.get(number, 0.0) for number, value in zip(last["slice"], last[name], strict=True)]
    return {name: value for name, value in last.items() if name != "kind"} | window
