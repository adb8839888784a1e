"""A finished LCN run, opened to look inside: its network with the weights of the best checkpoint, and rows it was not trained on.

Shapes: B rows, L events, D embedding size.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.data.micro_batches import local_micro_batches
from raytrain.embeddings.tables import Embedded
from raytrain.errors import RunError
from raytrain.model_config import LcnModel
from raytrain.models.declared import declared_histories
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.sequence_network import SequenceNetwork, view_of
from raytrain.models.lcn.network import LcnInterest
from raytrain.models.lcn.pyramid import Levels
from raytrain.run import open_run, read_result
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_weights
from raytrain.training.commit import CHECKPOINTS
from raytrain.training.loop import Learner, build_learner
from raytrain.training.parallel import World, unwrapped
from raytrain.training.specs import scoring_spec


@dataclass(frozen=True)
class LcnRun:
    """A run directory, its best checkpoint loaded; tables lie whole in this process, whatever backend trained them."""

    storage: Storage
    job: JobConfig
    contract: Contract
    learner: Learner

    @property
    def model(self) -> LcnModel:
        assert isinstance(self.job.model, LcnModel)
        return self.job.model

    @property
    def item_table(self) -> str:
        """The table of the items that all histories and the candidate share."""
        found = next(feature.table for feature in self.contract.features if feature.name == self.contract.item)
        assert found is not None
        return found

    @property
    def item_rows(self) -> Tensor:
        """float32 [rows of the table, D]"""
        rows: Tensor = self.learner.tables.state_dict()[f"{self.item_table}.weight"]
        return rows

    @property
    def sources(self) -> tuple[str, ...]:
        """The source domains whose history the model reads."""
        return tuple(name for name in network_of(self.learner).history_table if name != self.contract.target)

    def batches(self, split: str, num_batches: int, shuffle: bool = False) -> Iterator[Batch]:
        """The first batches of a split of the target, in file order or in that of the run's seed."""
        histories = declared_histories(self.job, self.contract)
        spec = scoring_spec(self.job, self.contract, self.contract.target, split, histories)
        return islice(local_micro_batches(replace(spec, shuffle=shuffle)), num_batches)


def open_lcn(run: str) -> LcnRun:
    """Opens a finished run and loads its best checkpoint.

    Raises:
        RunError: there is no run, it did not finish, or its model is not LCN.
    """
    opened = open_run(run)
    if not isinstance(opened.job.model, LcnModel):
        raise RunError(f"The run has to be of LCN. Received: model.name={opened.job.model.name} in {run}. Name a run of lcn.")
    # Local tables load what sharded ones saved, and need neither FBGEMM nor a process group.
    tables = opened.job.tables.model_copy(update={"backend": "local"})
    job = opened.job.model_copy(update={"tables": tables})
    learner = build_learner(job, opened.contract, World())
    best = Storage(opened.storage.join(f"{CHECKPOINTS}/{read_result(run)['best_checkpoint']}"))
    with warnings.catch_warnings():
        # DCP would have users know that one process reads alone.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load_weights(best, learner.tables, learner.network)
    learner.network.eval()
    return LcnRun(opened.storage, job, opened.contract, learner)


def network_of(learner: Learner) -> SequenceNetwork:
    network = unwrapped(learner.network)
    assert isinstance(network, SequenceNetwork)
    return network


def interest_of(learner: Learner) -> LcnInterest:
    interest = network_of(learner).interests
    assert isinstance(interest, LcnInterest)
    return interest


@dataclass(frozen=True)
class Looked:
    """What the pyramids made of a batch."""

    query: Tensor
    """float32 [B, D], the candidates' vectors"""
    views: dict[str, HistoryView]
    """history's domain -> its events"""
    levels: dict[str, Levels]


def look_at(learner: Learner, batch: Batch) -> Looked:
    """One batch through tables, projections and pyramids, without the head."""
    network, interest = network_of(learner), interest_of(learner)
    embedded: Embedded = learner.tables(batch)
    query = network.features.vectors(embedded, batch)[network.item]
    views = {name: view_of(embedded, table, batch, name) for name, table in network.history_table.items()}
    aligned = {name: interest.align(name, view.rows) for name, view in views.items()}
    return Looked(query, views, interest.levels(query, views, interest.align(interest.target, query), aligned))
