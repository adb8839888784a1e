"""The output directory: taken, emptied of an earlier prepare, never of anything else."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raytrain.data.contract import CONTRACT_FILE
from raytrain.data.prepare.blocks import BlockRef
from raytrain.data.vocabulary import VOCABULARIES, vocabulary_file
from raytrain.errors import DataError
from raytrain.storage import Storage

SUMMARY_FILE = "prepared.json"
SCRATCH = "_scratch"


def claim(storage: Storage) -> None:
    """Makes sure that the output directory is new, empty, or left by an earlier prepare.

    Raises:
        DataError: it holds files that no prepare wrote.
    """
    present = {info.base_name for info in storage.filesystem.get_file_info(fs.FileSelector(storage.root, allow_not_found=True))}
    if present and present != {SCRATCH} and not present & {CONTRACT_FILE, SUMMARY_FILE}:
        raise DataError(
            f"output has to be an empty directory or an earlier prepared data set. Received: {storage.uri}, "
            f"which holds {min(present)}. Choose another directory."
        )
    delete_directory(storage, SCRATCH)


def keep_apart(storage: Storage, blocks: list[BlockRef]) -> None:
    """Raises DataError: an event file lies below the output directory, where ``clear`` would delete it."""
    for block in blocks:
        inside = block.filesystem.equals(storage.filesystem) and block.path.startswith(storage.path("") + "/")
        if inside and not block.path.startswith(storage.path(SCRATCH) + "/"):
            raise DataError(f"Events have to lie outside output. Received: {block.path}, output={storage.uri}. Choose another output.")


def clear(storage: Storage) -> None:
    """Removes an earlier prepared data set."""
    # The marker goes first and the contract next: a prepare that dies half way leaves no contract, yet can be run again.
    storage.write_text(SUMMARY_FILE, json.dumps({"state": "not finished"}) + "\n")
    if storage.exists(CONTRACT_FILE):
        storage.filesystem.delete_file(storage.path(CONTRACT_FILE))
    for folder in ("samples", "histories", VOCABULARIES):
        delete_directory(storage, folder)


def make_directory(storage: Storage, name: str) -> None:
    storage.filesystem.create_dir(storage.path(name), recursive=True)


def delete_directory(storage: Storage, name: str) -> None:
    """With all it holds; a missing one is fine."""
    storage.filesystem.delete_dir_contents(storage.path(name), missing_dir_ok=True)
    if storage.exists(name):
        storage.filesystem.delete_dir(storage.path(name))


def write_vocabulary(storage: Storage, table: str, values: pa.Array) -> None:
    """vocabularies/<table>.parquet with columns id and value: what an id stands for."""
    make_directory(storage, VOCABULARIES)
    ids = pa.array(np.arange(1, len(values) + 1, dtype=np.int32))
    with storage.filesystem.open_output_stream(storage.path(vocabulary_file(table))) as sink:
        pq.write_table(pa.table({"id": ids, "value": values}), sink)
