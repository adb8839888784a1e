"""Online Retail II as the publisher's workbook or as two Parquet files, read into the same order lines."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.recipes.purchases import Lines, codes
from raytrain.errors import DataError
from raytrain.settings import nearest
from raytrain.storage import Storage, resolve

FILES = ("united_kingdom.parquet", "other_countries.parquet")
SHEET_COLUMNS = {
    "Customer ID": "user_id",
    "InvoiceDate": "ts",
    "Invoice": "invoice",
    "StockCode": "item_id",
    "Quantity": "quantity",
    "Price": "unit_price",
    "Country": "country",
}
"""The workbook's names -> those of the Parquet files."""

_PRICE_DECIMALS = 3


def read_lines(source: str) -> Lines:
    """Reads a directory with the two Parquet files, or online_retail_II.xlsx, from any file system. Lines without a customer are left out.

    Raises:
        DataError: it is neither, or a column is missing or of another type.
    """
    found = _read_workbook(source) if source.lower().endswith(".xlsx") else _read_directory(source)
    found = found[found["user_id"].notna()]
    invoice, item, country = (codes(found[name]) for name in ("invoice", "item_id", "country"))
    try:
        # Prices have 3 decimals at most; 32-bit copies of them are rounded back.
        price = found["unit_price"].to_numpy(np.float64).round(_PRICE_DECIMALS)
        user, time, quantity = (found[name].to_numpy(np.int64) for name in ("user_id", "ts", "quantity"))
    except (TypeError, ValueError) as err:
        raise DataError(
            f"Customers, times, quantities and prices have to be numbers. Received: {err} in {source}. Fetch it again."
        ) from None
    return Lines(user, time, invoice[0], item[0], quantity, price, country[0], item[1], country[1]).in_order()


def _read_directory(source: str) -> pd.DataFrame:
    storage, parts = Storage(source), []
    names = list(SHEET_COLUMNS.values())
    for name in FILES:
        try:
            with storage.filesystem.open_input_file(storage.path(name)) as handle:
                file = pq.ParquetFile(handle)
                _check_columns(storage.join(name), file.schema_arrow.names, names)
                parts.append(file.read(names).to_pandas())
        except (OSError, pa.ArrowInvalid) as err:
            raise DataError(
                f"recipe.source has to hold {' and '.join(FILES)}, or to be online_retail_II.xlsx. Received: {source} ({err}). Change it."
            ) from None
    found: pd.DataFrame = pd.concat([part.astype({"country": str}) for part in parts])
    return found


def _read_workbook(source: str) -> pd.DataFrame:
    filesystem, path = resolve(source)
    try:
        with filesystem.open_input_file(path) as handle:
            sheets = pd.read_excel(handle, sheet_name=None, dtype={"Invoice": str, "StockCode": str}, engine="openpyxl")
    except ImportError:
        raise DataError(f"A workbook is read with openpyxl. Received: {source}. Run pip install openpyxl, or name Parquet files.") from None
    except Exception as err:
        # What openpyxl raises for a file that is no workbook depends on where it breaks.
        raise DataError(f"recipe.source has to be a readable workbook. Received: {source} ({err}). Download it again.") from None
    parts = []
    for name, sheet in sheets.items():
        _check_columns(f"{source}, sheet {name}", sheet.columns, list(SHEET_COLUMNS))
        part = sheet.rename(columns=SHEET_COLUMNS)[list(SHEET_COLUMNS.values())]
        parts.append(part.assign(ts=part["ts"].to_numpy("datetime64[s]").astype(np.int64)))
    parts.sort(key=lambda part: int(part["ts"].min()))
    # The sheets overlap by nine days of December 2010, which are taken from the later one.
    starts = [int(part["ts"].min()) for part in parts[1:]]
    cut = [part[part["ts"] < start] for part, start in zip(parts, starts, strict=False)]
    found: pd.DataFrame = pd.concat([*cut, parts[-1]])
    return found


def _check_columns(where: str, found: list[str] | pd.Index, wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"{where} has to have columns {', '.join(wanted)}. Received: none called {missing[0]}. {nearest(missing[0], list(found))}"
        )
