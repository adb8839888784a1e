"""Strict JSON: it has neither NaN nor infinity, so what is undefined is null."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(document: Any) -> str:
    """Mappings, sequences, strings, numbers and null as a file's text; a float that is not finite becomes null."""
    return json.dumps(finite(document), indent=2, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """``value`` with null for every float in it that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
