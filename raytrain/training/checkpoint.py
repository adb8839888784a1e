"""Checkpoints by ``torch.distributed.checkpoint``: tables, network and optimizers, loadable at any number of ranks.

One file per rank and a ``.metadata``, which DCP reads with pickle: load checkpoints of runs you trust, as you would code.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from raytrain.embeddings.tables import Tables
from raytrain.training.parallel import unwrapped


def save_checkpoint(directory: str | Path, tables: Tables, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes this rank's part into ``directory``; a collective. Directories of all ranks merge into one checkpoint."""
    state = _state(tables, network) | _optimizer_state(tables, optimizer)
    save(state, storage_writer=FileSystemWriter(directory), no_dist=not dist.is_initialized())


def load_weights(directory: str | Path, tables: Tables, network: nn.Module) -> None:
    """Loads tables and network, optimizer state left out; a collective."""
    state = _state(tables, network)
    load(state, storage_reader=FileSystemReader(directory), no_dist=not dist.is_initialized())
    tables.load_state_dict(state["tables"])
    unwrapped(network).load_state_dict(state["network"])


def load_checkpoint(directory: str | Path, tables: Tables, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Loads everything ``save_checkpoint`` wrote; a collective. The optimizer has to have stepped or been initialised alike."""
    load_weights(directory, tables, network)
    _initialise_state(optimizer)
    state = _optimizer_state(tables, optimizer)
    load(state, storage_reader=FileSystemReader(directory), no_dist=not dist.is_initialized())
    tables.load_optimizer_state_dict(state.get("table_optimizer", {}))
    current = optimizer.state_dict()
    current["state"] = {int(index): values for index, values in state.get("dense_optimizer", {}).items()}
    optimizer.load_state_dict(current)


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
