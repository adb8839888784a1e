"""Tables in plain torch, whole on one rank: the oracle of ``ShardedTables`` and a backend without FBGEMM.

The optimizers follow FBGEMM's EXACT_ROWWISE_ADAGRAD, EXACT_ADAGRAD and EXACT_SGD (fbgemm_gpu, embedding optimizers).
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from raytrain.data.batch import Batch
from raytrain.embeddings.plan import OPTIMIZERS, describe, whole_tables
from raytrain.embeddings.tables import Embedded, EmbeddedRows, TableConfig, TableOptimizer
from raytrain.embeddings.unique import unique_ids
from raytrain.errors import TablesError
from raytrain.settings import nearest

# Rows drawn from one generator. A rank draws whole chunks and keeps its part, so it wastes less than two chunks a shard.
_CHUNK_ROWS = 4096


class LocalTables:
    """float32 tables whose rows are updated inside backward; implements ``Tables`` on one rank."""

    def __init__(self, configs: Sequence[TableConfig], optimizer: TableOptimizer, seed: int) -> None:
        """Draws the same rows as ``ShardedTables`` at any number of ranks.

        Raises:
            TablesError: the optimizer's kind is unknown, or two tables share a name.
        """
        check_names(configs)
        if optimizer.kind not in OPTIMIZERS:
            raise TablesError(
                f"tables.optimizer has to be a known one. Received: optimizer={optimizer.kind}. {nearest(optimizer.kind, OPTIMIZERS)}"
            )
        self._configs = tuple(configs)
        self._optimizer = optimizer
        self._lr = optimizer.lr
        self._training = True
        self._weights: dict[str, Tensor] = {}
        self._states: dict[str, Tensor] = {}
        for config in configs:
            weight = torch.empty(config.num_rows, config.dim)
            fill_initial(weight, config, seed, first_row=0, first_column=0)
            self._weights[config.name] = weight
            if optimizer.kind != "sgd" and not config.frozen:
                shape = (config.num_rows,) if optimizer.kind == "rowwise_adagrad" else (config.num_rows, config.dim)
                self._states[config.name] = torch.zeros(shape)

    def __call__(self, batch: Batch) -> Embedded:
        embedded = {}
        for config in self._configs:
            ids, inverse = unique_ids(batch, config)
            rows = self._weights[config.name].index_select(0, ids)
            if self._training and not config.frozen and torch.is_grad_enabled():
                # A leaf: backward sums its gradient over all features before the hook runs, once per backward.
                rows.requires_grad_()
                rows.register_post_accumulate_grad_hook(partial(self._update, config.name, ids))  # type: ignore[no-untyped-call]
            embedded[config.name] = EmbeddedRows(rows, ids, inverse)
        return embedded

    def _update(self, name: str, ids: Tensor, rows: Tensor) -> None:
        grad = rows.grad
        assert grad is not None
        rows.grad = None
        with torch.no_grad():
            step = -self._lr * grad
            if self._optimizer.kind != "sgd":
                rowwise = self._optimizer.kind == "rowwise_adagrad"
                state = self._states[name]
                moved = state.index_select(0, ids) + (grad.square().mean(1) if rowwise else grad.square())
                state.index_copy_(0, ids, moved)
                scale = moved.sqrt_().add_(self._optimizer.eps)
                step.div_(scale[:, None] if rowwise else scale)
            self._weights[name].index_add_(0, ids, step)

    def set_lr(self, lr: float) -> None:
        self._lr = lr

    def train(self, mode: bool = True) -> Self:
        self._training = mode
        return self

    def state_dict(self) -> dict[str, Any]:
        """ "<table>.weight" -> float32 [num_rows, D]; the keys of ``ShardedTables``, so either loads the other's checkpoint."""
        return self._part(frozen=False)

    def frozen_state_dict(self) -> dict[str, Any]:
        return self._part(frozen=True)

    def _part(self, frozen: bool) -> dict[str, Any]:
        return {f"{config.name}.weight": self._weights[config.name] for config in self._configs if config.frozen == frozen}

    def zero_untrained_rows(self) -> dict[str, int]:
        check_keeps_state(self._optimizer)
        return {name: zero_untrained(self._weights[name], state) for name, state in self._states.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._load(self.state_dict(), state)

    def optimizer_state_dict(self) -> dict[str, Any]:
        """ "<table>.momentum1" -> float32 sums of squared gradients, [num_rows] row-wise, else [num_rows, D]; none for SGD."""
        return {f"{name}.momentum1": state for name, state in self._states.items()}

    def load_optimizer_state_dict(self, state: dict[str, Any]) -> None:
        self._load(self.optimizer_state_dict(), state)

    def _load(self, ours: dict[str, Any], state: dict[str, Any]) -> None:
        check_keys(ours, state, ours)
        for key, tensor in ours.items():
            tensor.copy_(state[key])

    def blend(self, pairs: Sequence[tuple[str, str]], share: float, with_state: bool = False) -> None:
        for receiver, giver in pairs:
            check_pair(receiver, giver, self._weights)
            parts = (self._weights, self._states) if with_state else (self._weights,)
            for part in parts:
                if receiver in part:
                    blend_part(part[receiver], part[giver], share)

    def describe(self) -> str:
        return describe(whole_tables(self._configs, self._optimizer.kind))

    def num_bytes(self) -> int:
        return sum(weight.nbytes for weight in self._weights.values())


def fill_initial(out: Tensor, config: TableConfig, seed: int, first_row: int, first_column: int) -> None:
    """Writes a shard's initial rows, normal(0, init_std), into ``out`` [rows, columns] in place.

    Row i of a table is a pure function of (seed, table name, i), so every backend and number of ranks starts bit-equal.
    """
    num_rows, num_columns = out.shape
    for chunk in range(first_row // _CHUNK_ROWS, -(-(first_row + num_rows) // _CHUNK_ROWS)):
        start = chunk * _CHUNK_ROWS
        digest = hashlib.sha256(f"{seed}/{config.name}/{chunk}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        rows = torch.empty(_CHUNK_ROWS, config.dim).normal_(0.0, config.init_std, generator=generator)
        begin, end = max(start, first_row), min(start + _CHUNK_ROWS, first_row + num_rows)
        out[begin - first_row : end - first_row] = rows[begin - start : end - start, first_column : first_column + num_columns]


def blend_part(receiver: Tensor, giver: Tensor, share: float) -> None:
    """(1 - share) receiver + share giver into ``receiver``, on one rank; share 1 copies to the bit."""
    if share == 1.0:
        receiver.copy_(giver)
    else:
        receiver.lerp_(giver, share)


def check_keeps_state(optimizer: TableOptimizer) -> None:
    """Raises TablesError for an optimizer whose state does not tell trained rows from others."""
    if optimizer.kind == "sgd":
        raise TablesError(
            "Which rows were trained is read off the optimizer's state. Received: tables.optimizer=sgd, which has none. "
            "Set tables.optimizer=rowwise_adagrad."
        )


def zero_untrained(weight: Tensor, state: Tensor) -> int:
    """Zeroes the rows of ``weight`` [rows, columns] whose sums of squared gradients are 0; the number of the others."""
    seen = state > 0 if state.dim() == 1 else (state > 0).any(1)
    weight[~seen] = 0.0
    return int(seen.sum())


def check_pair(receiver: str, giver: str, known: Iterable[str]) -> None:
    """Raises TablesError unless both are tables of the set."""
    names = list(known)
    for name in (receiver, giver):
        if name not in names:
            raise TablesError(f"Only tables of one set are blended. Received: {name}. {nearest(name, names)}")


def check_names(configs: Iterable[TableConfig]) -> None:
    """Raises TablesError when two tables share a name."""
    names = [config.name for config in configs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TablesError(f"Every table has to have its own name. Received: {', '.join(twice)} twice. Rename one.")


def check_keys(held: Iterable[str], loaded: Iterable[str], known: Iterable[str]) -> None:
    """Raises TablesError unless a loaded state has every key held on this rank and none unknown to the table set."""
    missing, unknown = sorted(set(held) - set(loaded)), sorted(set(loaded) - set(known))
    if missing or unknown:
        raise TablesError(
            "A checkpoint has to hold the tables it is loaded into. "
            f"Received: missing={', '.join(missing) or 'none'}, unknown={', '.join(unknown) or 'none'}. "
            "Load it with the model and optimizer it was saved with."
        )
