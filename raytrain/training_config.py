"""How a job trains and on what: the optimizer, where it starts, the loop, the workers."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raytrain.settings import Section, Share


class OptimizerSection(Section):
    """The dense network's optimizer; the schedule scales the tables' rate too."""

    name: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = 10.0
    """Largest global norm of the dense network's gradient; tables are updated inside backward, out of its reach."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    final_lr_share: Share = 0.0
    """What linear and cosine schedules end at, as a share of lr."""


class StartSection(Section):
    """What a run begins with instead of random weights. Runs are paths or URIs of finished run directories."""

    run: str | None = None
    """A run of the same model and tables, whose best checkpoint gives all weights; null draws them."""
    batch_norm: Literal["keep", "reset_statistics", "reset"] = "keep"
    """What becomes of the batch norm of ``run``: keep it, forget its running moments, or its scale and shift too."""
    optimizer: Literal["reset", "keep"] = "reset"
    """Whether the state of the optimizers goes along."""
    snapshots: tuple[str, ...] = ()
    """Runs of tpm whose vectors ecdctr reads, oldest first. A row sees the latest ``model.months`` of those that end before it, and less
    where there are fewer."""

    @model_validator(mode="after")
    def _check_run(self) -> Self:
        if self.run is None and (self.batch_norm, self.optimizer) != ("keep", "reset"):
            raise ValueError(
                "start.batch_norm and start.optimizer say what becomes of another run's. "
                f"Received: start.run=null, batch_norm={self.batch_norm}, optimizer={self.optimizer}. Set start.run."
            )
        return self


class EarlyStoppingSection(Section):
    metric: Literal["auc", "gauc", "logloss", "ne", "norm_gini", "spearman", "pay_auc", "total_error"] = "auc"
    """A validation metric of the target domain; it also chooses the best checkpoint. Of models of amounts it is one of the last four,
    norm_gini where none is given."""
    patience: PositiveInt | None = 2
    """Evaluations without a better value before training stops; null never stops early."""
    min_delta: NonNegativeFloat = 0.0


class TrainingSection(Section):
    """The loop."""

    epochs: PositiveInt = 1
    """Passes over the target domain's training rows."""
    max_steps: PositiveInt | None = None
    evals_per_epoch: PositiveInt = 2
    """Each evaluation scores the whole validation split and saves a checkpoint."""
    keep_validation_mib: NonNegativeInt = 256
    """Memory of each worker that the validation split may stay in after the first evaluation; one that takes more is streamed anew."""
    checkpoint_every_steps: PositiveInt | None = None
    """Checkpoints between evaluations: what a crash may cost. null saves at evaluations alone."""
    checkpoint_upload: Literal["sync", "async"] = "sync"
    """async goes on training while a finished snapshot is uploaded; at most one upload is under way."""
    storage_timeout_s: PositiveFloat = 1800.0
    """A checkpoint whose upload takes longer stops the run with the last one good, instead of a storage that hangs holding it."""
    log_every_steps: PositiveInt = 20
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept; the best one is kept besides."""
    early_stopping: EarlyStoppingSection = EarlyStoppingSection()
    deterministic: bool = True
    """Global batch k is a pure function of seed, epoch and k. false lets fast read tasks overtake slow ones."""


class WorkerRange(Section):
    """Elastic workers: as many as the cluster has room for, restarted from the cursor whenever that changes."""

    min: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min has to be at most max. Received: min={self.min}, max={self.max}. Swap them.")
        return self


class ScalingSection(Section):
    num_workers: PositiveInt | WorkerRange = 1
    """A number, or {min: 1, max: 4} for elastic workers."""
    max_failures: Annotated[int, Field(ge=-1)] = 3
    """Worker crashes after which a run goes on from its last checkpoint; -1 for any number. Preemptions are not counted."""
    resize_interval_s: PositiveFloat = 60.0
    """How often elastic workers look for room to grow."""
    wait_for_nodes_s: NonNegativeFloat = 0.0
    """On a cluster that grows: how long it is asked for nodes before a job that does not fit is refused. 0 refuses at once."""
    start_limit_s: PositiveFloat = 3600.0
    """How long a run waits for room for its workers: elastic ones for nodes, on end; where Ray tries and fails to start them, all tries
    of a launch together. Then it fails, and --resume goes on with it."""
    cpus_per_worker: PositiveFloat = 1.0
    threads_per_worker: PositiveInt | None = None
    """Torch threads of a worker; null leaves a core to read tasks and shares the others among the workers, or takes all in_process."""
    use_gpu: bool = False
    in_process: bool = False
    """One worker in the command's own process, or in one of those that a roll or a sweep keeps, for many short runs: no Ray Train is
    started, rows are read between steps, checkpoints are saved where they are made, and a failure ends the run, which --resume goes on
    with. What the other keys of scaling but threads_per_worker and data.prefetch_batches say is for Ray Train."""

    @property
    def min_workers(self) -> int:
        return self.num_workers.min if isinstance(self.num_workers, WorkerRange) else self.num_workers

    @property
    def max_workers(self) -> int:
        return self.num_workers.max if isinstance(self.num_workers, WorkerRange) else self.num_workers

    @property
    def elastic(self) -> bool:
        return isinstance(self.num_workers, WorkerRange)

    def describe(self) -> str:
        return f"{self.min_workers} to {self.max_workers}" if self.elastic else str(self.max_workers)
