"""Checkpoints by ``torch.distributed.checkpoint`` (DCP): tables, network and optimizers, loadable at any number of ranks.

Written into a local directory (one file per rank and a ``.metadata``) that is uploaded afterwards; read from where it lies,
on any file system, each rank only the byte ranges it needs. DCP pickles ``.metadata``: ours is read by an allow-list of the
classes that belong there, and tensors with ``weights_only``.
"""

import io
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from raytrain.embeddings.tables import Tables
from raytrain.errors import RunError, StreamError
from raytrain.storage import Storage
from raytrain.training.parallel import unwrapped

# What a .metadata consists of: descriptions of tensors and where their bytes lie. No BytesStorageMetadata: DCP would unpickle
# whatever such an entry points at.
_ALLOWED = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "PurePosixPath"},
    "torch": {"Size", "device", "dtype", "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
}


def save_checkpoint(directory: str | Path, tables: Tables, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes this rank's part into the local ``directory``; a collective. Directories of all ranks merge into one checkpoint.

    Raises:
        StreamError: a rank could not write its part.
    """
    _save(_state(tables, network) | _optimizer_state(tables, optimizer), directory)


def load_weights(storage: Storage, tables: Tables, network: nn.Module) -> None:
    """Loads tables and network from the checkpoint directory ``storage``, optimizer state left out; a collective.

    Raises:
        RunError: the checkpoint does not fit the model, or is damaged.
    """
    state = _state(tables, network)
    _load(state, storage)
    tables.load_state_dict(state["tables"])
    unwrapped(network).load_state_dict(state["network"])


def load_checkpoint(storage: Storage, tables: Tables, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Loads everything ``save_checkpoint`` wrote; a collective. Errors as ``load_weights``."""
    load_weights(storage, tables, network)
    _initialise_state(optimizer)
    state = _optimizer_state(tables, optimizer)
    if state:
        _load(state, storage)
    tables.load_optimizer_state_dict(state.get("table_optimizer", {}))
    current = optimizer.state_dict()
    current["state"] = {int(index): values for index, values in state.get("dense_optimizer", {}).items()}
    optimizer.load_state_dict(current)


def save_tables(directory: str | Path, tables: Tables, names: Sequence[str]) -> None:
    """Writes this rank's part of the named weights into the local ``directory``; a collective. Errors as ``save_checkpoint``."""
    weights = tables.state_dict()
    _save({"tables": {name: weights[name] for name in names}}, directory)


def load_tables(storage: Storage, tables: Tables, names: Mapping[str, str]) -> None:
    """Loads tables that ``save_tables`` or ``save_checkpoint`` wrote into frozen ones, each rank its own rows; a collective.

    Args:
        names: key in the checkpoint -> key of ``tables.frozen_state_dict()``.

    Raises:
        RunError: the checkpoint lacks a table, has it in another shape, or is damaged.
    """
    frozen = tables.frozen_state_dict()
    _load({"tables": {saved: frozen[own] for saved, own in names.items()}}, storage)


def load_whole(storage: Storage, state: dict[str, Any]) -> None:
    """Loads a checkpoint's entries into the plain tensors of ``state``, in this process alone. Errors as ``load_weights``."""
    _load(state, storage, alone=True)


def _save(state: dict[str, Any], directory: str | Path) -> None:
    try:
        # Not synced: the upload makes it last, this copy is deleted.
        save(state, storage_writer=FileSystemWriter(directory, sync_files=False), no_dist=not dist.is_initialized())
    except CheckpointException as err:
        reasons = "; ".join(f"rank {rank}: {failure}" for rank, (failure, _) in sorted(err.failures.items()))
        raise StreamError(
            f"Every rank needs room for its part of a checkpoint in {directory}. Received: {reasons}. Free space, or set TMPDIR."
        ) from None


def _load(state: dict[str, Any], storage: Storage, alone: bool = False) -> None:
    try:
        with warnings.catch_warnings():
            # It is as asked: one process reads.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(state, storage_reader=_Reader(storage), no_dist=alone or not dist.is_initialized())
    except CheckpointException as err:
        reasons = "; ".join(f"rank {rank}: {failure}" for rank, (failure, _) in sorted(err.failures.items()))
        raise RunError(
            f"A checkpoint has to fit the model and be whole. Received: {storage.uri}: {reasons}. "
            "Score it with the config it was trained with, or take another checkpoint."
        ) from None


class _Reader(FileSystemReader):
    """DCP's reader on any file system: one ranged read a tensor shard."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.root)
        self.fs = _Files(storage)  # type: ignore[assignment]

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        file.seek(sinfo.offset)
        return io.BytesIO(file.read(sinfo.length))

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            metadata: Metadata = _Unpickler(io.BytesIO(file.read())).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Files:
    """What the reader asks of a file system."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def concat_path(self, path: str | Path, suffix: str) -> str:
        return f"{path}/{suffix}"

    @contextmanager
    def create_stream(self, path: str, mode: str) -> Iterator[Any]:
        with self._storage.filesystem.open_input_file(path) as file:
            yield file


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise RunError(f"A checkpoint's .metadata has to describe tensors only. Received: {module}.{name}. Do not use this checkpoint.")
        return super().find_class(module, name)


def _state(tables: Tables, network: nn.Module) -> dict[str, Any]:
    return {"tables": tables.state_dict(), "network": unwrapped(network).state_dict()}


def _optimizer_state(tables: Tables, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Dense state is keyed by the parameter's number and replicated like the network. DCP cannot load an empty dict (SGD)."""
    state = {
        "table_optimizer": tables.optimizer_state_dict(),
        "dense_optimizer": {str(index): values for index, values in optimizer.state_dict()["state"].items()},
    }
    return {name: values for name, values in state.items() if values}


def _initialise_state(optimizer: torch.optim.Optimizer) -> None:
    """A step with zero gradient and zero rate makes the state tensors that DCP loads into."""
    if optimizer.state:
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
