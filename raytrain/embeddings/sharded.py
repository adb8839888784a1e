"""Tables sharded over the ranks of the default process group by TorchRec, updated inside backward by FBGEMM.

A table is looked up with one "sample" that holds the step's unique ids, so an id travels once a step however many events
use it. TorchRec averages table gradients over ranks as DDP does, so a loss of R * sum(w * l) / W on each of R ranks moves
rows by the gradient of the global mean.

torchrec and fbgemm_gpu are imported when the first ``ShardedTables`` is made.
"""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from raytrain.data.batch import Batch
from raytrain.embeddings.config import INSTALL, VERSION, TableConfig, TableOptimizer
from raytrain.embeddings.local import (
    blend_part,
    check_keeps_state,
    check_keys,
    check_names,
    check_pair,
    fill_initial,
    zero_untrained,
)
from raytrain.embeddings.plan import PlannedShard, PlannedTable, column_block, describe, plan_tables
from raytrain.embeddings.tables import Embedded, EmbeddedRows
from raytrain.embeddings.unique import unique_ids
from raytrain.errors import TablesError

_INNER = "table_"
"""Of tables' names inside TorchRec, which makes a module of each: one called ``type`` would hide a method."""


@dataclass(frozen=True)
class _Group:
    """Tables that TorchRec can look up in one exchange: one dim, all trained or all frozen."""

    configs: tuple[TableConfig, ...]
    model: Any
    """DistributedModelParallel around one EmbeddingCollection"""
    plan: Any
    """table name -> torchrec ParameterSharding"""
    frozen: bool


class ShardedTables:
    """float32 tables over R ranks; implements ``Tables``."""

    def __init__(
        self,
        configs: Sequence[TableConfig],
        optimizer: TableOptimizer,
        seed: int,
        sharding: str = "auto",
        device: torch.device | None = None,
    ) -> None:
        """Allocates this rank's shards only. A collective: every rank, with the same arguments.

        Raises:
            TablesError: torchrec or FBGEMM is missing or of another version, no process group is initialised, two
                tables share a name, or the tables cannot be sharded as asked.
        """
        check_names(configs)
        if not dist.is_initialized():
            raise TablesError(
                "Sharded tables have to have a process group. Received: none initialised. "
                "Call torch.distributed.init_process_group first, or set tables.backend=local."
            )
        _require_torchrec()
        self._configs = tuple(configs)
        self._optimizer = optimizer
        self._device = device or torch.device("cpu")
        self._lr = optimizer.lr
        self._training = True
        self._warm = False
        plan = {planned.table: planned for planned in plan_tables(configs, optimizer.kind, dist.get_world_size(), sharding)}
        keys = sorted({(config.dim, config.frozen) for config in configs})
        with _quiet():
            self._groups = [
                _build_group([config for config in configs if (config.dim, config.frozen) == key], plan, optimizer, self._device)
                for key in keys
            ]
            self._weights = self._own_weights()
            self._states = self._own_states()
        by_name = {config.name: config for config in configs}
        for key, weight in self._weights.items():
            for tensor, offsets in _shards_of(weight):
                fill_initial(tensor, by_name[key.removesuffix(".weight")], seed, first_row=offsets[0], first_column=offsets[1])

    def __call__(self, batch: Batch) -> Embedded:
        if self._warm:
            return self._look_up(batch)
        # The first lookup builds TorchRec's exchange, with warnings that are not the user's to act on.
        with _quiet():
            embedded = self._look_up(batch)
        self._warm = True
        return embedded

    def _look_up(self, batch: Batch) -> Embedded:
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        embedded = {}
        for group in self._groups:
            found = [unique_ids(batch, config) for config in group.configs]
            counts = [len(ids) for ids, _ in found]
            names = [config.name for config in group.configs]
            features = KeyedJaggedTensor(
                keys=names,
                values=torch.cat([ids for ids, _ in found]).to(self._device),
                lengths=torch.tensor(counts, device=self._device),
                stride=1,
                length_per_key=counts,
            )
            with torch.set_grad_enabled(torch.is_grad_enabled() and self._training and not group.frozen):
                vectors = group.model(features)
                for name, (ids, inverse) in zip(names, found, strict=True):
                    embedded[name] = EmbeddedRows(vectors[name].values(), ids, inverse)
        return {config.name: embedded[config.name] for config in self._configs}

    def set_lr(self, lr: float) -> None:
        if lr == self._lr:
            return
        self._lr = lr
        for group in self._groups:
            if not group.frozen:
                for values in group.model.fused_optimizer.param_groups:
                    values["lr"] = lr
                # Hands the rate to FBGEMM, which reads no param_groups; rows are not touched.
                group.model.fused_optimizer.step()

    def train(self, mode: bool = True) -> Self:
        self._training = mode
        return self

    def state_dict(self) -> dict[str, Any]:
        """ "<table>.weight" -> ShardedTensor [num_rows, D] that shares memory with the table."""
        return self._part(frozen=False)

    def frozen_state_dict(self) -> dict[str, Any]:
        return self._part(frozen=True)

    def _part(self, frozen: bool) -> dict[str, Any]:
        names = [f"{config.name}.weight" for config in self._configs if config.frozen == frozen]
        return {name: self._weights[name] for name in names}

    def zero_untrained_rows(self) -> dict[str, int]:
        check_keeps_state(self._optimizer)
        counts = {}
        for config in self._configs:
            state = self._states.get(f"{config.name}.momentum1")
            if config.frozen or state is None:
                continue
            weight = self._weights[f"{config.name}.weight"]
            counts[config.name] = 0
            for (rows, offsets), (sums, _) in zip(_shards_of(weight), _shards_of(state), strict=True):
                seen = zero_untrained(rows, sums)
                counts[config.name] += seen if offsets[1] == 0 else 0
        return counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies ShardedTensors of the same plan, or whole tensors, into this rank's shards.

        Raises:
            TablesError: the keys are not those of these tables.
        """
        ours = self.state_dict()
        _load(ours, state, ours)

    def optimizer_state_dict(self) -> dict[str, Any]:
        """ "<table>.momentum1" -> ShardedTensor [num_rows] row-wise, else [num_rows, D]; none for SGD and frozen tables."""
        return dict(self._states)

    def load_optimizer_state_dict(self, state: dict[str, Any]) -> None:
        _load(self._states, state, self._state_keys())

    def blend(self, pairs: Sequence[tuple[str, str]], share: float, with_state: bool = False) -> None:
        names = [config.name for config in self._configs]
        for receiver, giver in pairs:
            check_pair(receiver, giver, names)
            keys = [(self._weights, "weight")] + ([(self._states, "momentum1")] if with_state else [])
            for part, kind in keys:
                mine, theirs = (list(_shards_of(part[key])) if key in part else [] for key in (f"{receiver}.{kind}", f"{giver}.{kind}"))
                if [(tensor.shape, offsets) for tensor, offsets in mine] != [(tensor.shape, offsets) for tensor, offsets in theirs]:
                    raise TablesError(
                        "Tables that are blended have to lie on the same ranks, row for row. "
                        f"Received: {receiver} and {giver}, placed apart. Declare one beside the other."
                    )
                for (tensor, _), (other, _) in zip(mine, theirs, strict=True):
                    blend_part(tensor, other, share)

    def planned(self) -> tuple[PlannedTable, ...]:
        """What TorchRec runs, in the form of ``plan_tables``."""
        actual = {name.removeprefix(_INNER): sharding for group in self._groups for name, sharding in group.plan.items()}
        return tuple(_planned(config, actual[config.name], self._optimizer.kind) for config in self._configs)

    def describe(self) -> str:
        return describe(self.planned())

    def num_bytes(self) -> int:
        return sum(tensor.nbytes for weight in self._weights.values() for tensor, _ in _shards_of(weight))

    def _own_weights(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for group in self._groups:
            found |= {key.removeprefix("embeddings.").removeprefix(_INNER): value for key, value in group.model.state_dict().items()}
        return {f"{config.name}.weight": found[f"{config.name}.weight"] for config in self._configs}

    def _own_states(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for group in self._groups:
            if not group.frozen:
                for values in group.model.fused_optimizer.state_dict()["state"].values():
                    found |= {key.removeprefix(_INNER): value for key, value in values.items()}
        # TorchRec makes no entry on a rank that holds nothing of a table.
        return {key: found[key] for key in self._state_keys() if key in found}

    def _state_keys(self) -> list[str]:
        if self._optimizer.kind == "sgd":
            return []
        return [f"{config.name}.momentum1" for config in self._configs if not config.frozen]


class _FollowPlan:
    """A TorchRec partitioner that places every shard where our plan has it, whatever its estimated speed."""

    def __init__(self, plan: dict[str, PlannedTable]) -> None:
        self._plan = plan

    def partition(self, proposal: list[Any], storage_constraint: Any) -> list[Any]:
        for option in proposal:
            for shard, planned in zip(option.shards, self._plan[option.name.removeprefix(_INNER)].shards, strict=True):
                shard.rank = planned.rank
        return proposal


def _build_group(configs: list[TableConfig], plan: dict[str, PlannedTable], optimizer: TableOptimizer, device: torch.device) -> _Group:
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
    from torchrec.modules.embedding_configs import EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection
    from torchrec.optim import SGD, Adagrad, RowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    num_ranks = dist.get_world_size()
    frozen = configs[0].frozen
    collection = EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=_INNER + config.name, num_embeddings=config.num_rows, embedding_dim=config.dim, feature_names=[config.name]
            )
            for config in configs
        ],
        # No memory yet: a rank allocates its shards, never a whole table.
        device=torch.device("meta"),
    )
    # A frozen table gets an optimizer too (TorchRec would add SGD at 0.01), at rate 0 and never reached by a gradient.
    fused = {"rowwise_adagrad": RowWiseAdagrad, "adagrad": Adagrad, "sgd": SGD}["sgd" if frozen else optimizer.kind]
    arguments: dict[str, Any] = {"lr": 0.0 if frozen else optimizer.lr}
    if fused is not SGD:
        arguments["eps"] = optimizer.eps
    apply_optimizer_in_backward(fused, collection.parameters(), arguments)
    sharder = EmbeddingCollectionSharder()
    constraints = {
        _INNER + config.name: ParameterConstraints(
            sharding_types=[plan[config.name].sharding],
            compute_kernels=["fused"],
            min_partition=column_block(config.dim, num_ranks),
        )
        for config in configs
    }
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=num_ranks, compute_device=device.type),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        partitioner=_FollowPlan(plan),
        constraints=constraints,
    )
    actual = planner.collective_plan(collection, [sharder], dist.group.WORLD)
    model = DistributedModelParallel(collection, device=device, plan=actual, sharders=[sharder])
    if device.type == "cpu":
        for lookup in model.module._lookups:
            _pool_single_rows(lookup)
    return _Group(tuple(configs), model, actual.plan[""], frozen)


def _pool_single_rows(lookup: Any) -> None:
    """Makes FBGEMM look each id up as a sum of one row, which gives the same vectors and updates.

    Its unpooled CPU backward allocates a hash-map entry per row, its pooled one is vectorised. Lookup and backward of
    300 k unique rows of 16 floats in 2 tables, one thread, without and with this: row-wise Adagrad 460 and 150 ms,
    Adagrad 340 and 80 ms, SGD 380 and 50 ms. At 3.7 k rows it is 3 and 1.5-3 ms, 1 ms of it TorchRec's Python.
    """
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen

    for module in lookup.modules():
        if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen):
            module.pooling_mode = PoolingMode.SUM
            module.forward = partial(_forward_as_bags, module.forward, len(module.feature_table_map))


def _forward_as_bags(forward: Callable[..., Tensor], num_tables: int, indices: Tensor, offsets: Tensor) -> Tensor:
    """float32 [sum of U, D] of tables of equal D, table after table; ``offsets`` bound R samples of each table."""
    bounds = offsets[:: (len(offsets) - 1) // num_tables].tolist()
    spans = list(pairwise(bounds))
    # FBGEMM wants as many bags of every table, so the shorter ones end in empty bags.
    longest = max(1, *(end - start for start, end in spans))
    bags = [torch.arange(start, start + longest).clamp_(max=end) for start, end in spans]
    sums = forward(indices=indices, offsets=torch.cat([*bags, offsets[-1:]])).view(longest, num_tables, -1)
    # unbind, not sums[:, table]: the backward of an index fills a gradient of all tables with zeros, once for each table.
    return torch.cat([rows[: end - start] for rows, (start, end) in zip(sums.unbind(1), spans, strict=True)])


def _planned(config: TableConfig, sharding: Any, optimizer: str) -> PlannedTable:
    shards = tuple(
        PlannedShard(
            rank=shard.placement.rank(),
            first_row=shard.shard_offsets[0],
            num_rows=shard.shard_sizes[0],
            first_column=shard.shard_offsets[1],
            num_columns=shard.shard_sizes[1],
        )
        for shard in sharding.sharding_spec.shards
    )
    kept = "frozen" if config.frozen else optimizer
    return PlannedTable(config.name, config.num_rows, config.dim, sharding.sharding_type, kept, dist.get_world_size(), shards)


def _shards_of(value: Any) -> Iterator[tuple[Tensor, list[int]]]:
    """A ShardedTensor's local tensors with their offsets in the whole."""
    for shard in value.local_shards():
        yield shard.tensor.detach(), shard.metadata.shard_offsets


def _load(ours: dict[str, Any], state: dict[str, Any], known: Iterable[str]) -> None:
    check_keys(ours, state, known)
    for key, value in ours.items():
        theirs = state[key]
        if theirs is value:
            # dcp.load has written into our memory.
            continue
        parts = [tensor for tensor, _ in _shards_of(theirs)] if isinstance(theirs, ShardedTensor) else None
        for index, (tensor, offsets) in enumerate(_shards_of(value)):
            if parts is None:
                box = tuple(slice(first, first + size) for first, size in zip(offsets, tensor.shape, strict=True))
                tensor.copy_(theirs[box])
            else:
                tensor.copy_(parts[index])


def _require_torchrec() -> None:
    try:
        with _quiet():
            versions = {name: importlib.import_module(name).__version__ for name in ("fbgemm_gpu", "torchrec")}
            importlib.import_module("torchrec.distributed.model_parallel")
    # A library built for another torch fails to load as any of these.
    except (ImportError, OSError, RuntimeError, AttributeError) as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise TablesError(f"tables.backend=sharded has to have torchrec and FBGEMM {VERSION}. Received: {reason}. {INSTALL}.") from err
    wrong = [f"{name} {version}" for name, version in versions.items() if version.split("+")[0] != VERSION]
    if wrong:
        raise TablesError(f"torchrec and FBGEMM have to be {VERSION}, as torch is pinned. Received: {', '.join(wrong)}. {INSTALL}.")
    # ShardedTensor, which TorchRec checkpoints with, announces its end on every method call, ours or torch's.
    warnings.filterwarnings("ignore", message="Please use DTensor instead", category=FutureWarning)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TorchRec's and FBGEMM's warnings off the screen; errors still show."""
    loggers = [logging.getLogger(name) for name in ("torchrec", "fbgemm_gpu", "torch.fx", "root")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
