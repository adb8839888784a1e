"""The typed job: one YAML file plus dotted overrides -> a frozen ``JobConfig``. Torch-free, so reading one is instant."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raytrain.ecdctr_config import EcdctrModel
from raytrain.errors import ConfigError
from raytrain.ltv_config import CdafModel, LtvModel
from raytrain.model_config import ModelSection
from raytrain.settings import Section, Share, flat_keys, parse_yaml, with_overrides
from raytrain.storage import Storage, has_credentials
from raytrain.training_config import OptimizerSection, ScalingSection, StartSection, TrainingSection

CONFIG_FILE = "config.yaml"
KINDS = {
    "model": ("a job", "raytrain train"),
    "recipe": ("a prepare config", "raytrain prepare"),
    "calendar": ("a roll", "raytrain roll"),
    "space": ("a sweep", "raytrain sweep"),
    "arms": ("a study", "raytrain study"),
    "rolls": ("a study of rolls", "raytrain study"),
    "head": ("a cluster", "raytrain kuberay"),
}
"""The section that tells a kind of file from the others -> its name, and the command that takes it."""


class RunSection(Section):
    """Where a run lives: ``storage_path/name``."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Directory of the run; null makes one of the model's name, the date and a random part. Never reused silently."""
    storage_path: str = "runs"
    """Any path or URI that pyarrow or fsspec reads: runs, /mnt/x, s3://bucket/runs."""
    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl (local storage only)."""
    save_predictions: bool = False
    """Write the test split's predictions under predictions/test/ (studies compare models row by row)."""


class DaySpan(Section):
    """Days from ``start`` on, ``stop`` left out."""

    start: date
    stop: date

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"start has to be before stop. Received: start={self.start}, stop={self.stop}. Move stop.")
        return self


class DaysSection(Section):
    """Which days of a data set that is kept by day (UTC) a run reads. There is no validation split: a run's last step is its best."""

    train: DaySpan
    test: DaySpan | None = None
    """Scored when training is over; null scores nothing."""
    skip_missing: bool = False
    """Train on the days that there are; false refuses a span with a day that has no rows."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.test is not None and self.test.start < self.train.stop:
            raise ValueError(
                f"A test day has to lie after training. Received: train.stop={self.train.stop}, test.start={self.test.start}. Move one."
            )
        return self


class DataSection(Section):
    """What is read, and how rows become batches."""

    path: str
    """Directory of a prepared data set (it holds contract.yaml)."""
    domain: str | None = None
    """The domain that is trained on and scored as the target; null takes the data set's own."""
    days: DaysSection | None = None
    """Of a data set that is kept by day; null of any other."""
    batch_size: PositiveInt = 1024
    """Target-domain rows in one global step, over all workers."""
    source_batch_size: NonNegativeInt = 0
    """Source-domain rows added to each step; 0 trains on the target domain alone."""
    history_length: PositiveInt = 200
    """The newest events kept of each domain's history."""
    shuffle: bool = True
    window_batches: PositiveInt = 32
    """Global batches that are shuffled together by one read task."""
    files_per_window: PositiveInt = 4
    """Files whose row groups are interleaved: more mixes users better and opens more history files per task."""
    prefetch_batches: PositiveInt = 4
    max_quarantine_share: Share = 0.01
    """A run stops once a larger share of a domain's rows had to be quarantined."""
    cpus_per_read_task: PositiveFloat = 0.5


class TablesSection(Section):
    """Embedding tables."""

    backend: Literal["sharded", "local"] = "sharded"
    """sharded: TorchRec. local: plain torch on every rank, the oracle of tests; one worker only."""
    sharding: Literal["auto", "row_wise", "table_wise", "column_wise"] = "auto"
    """auto: row_wise above one rank, table_wise on one."""
    dim: PositiveInt = 16
    init_std: PositiveFloat = 0.01
    optimizer: Literal["rowwise_adagrad", "adagrad", "sgd"] = "rowwise_adagrad"
    lr: PositiveFloat = 0.05
    eps: PositiveFloat = 1e-8


AMOUNT_MODELS = ("adsnet", "ltv", "cdaf", "spend", "lightgbm_ltv")
"""Models of amounts; those of a backbone take clicks with head.kind=click."""
CLICK_METRICS, AMOUNT_METRICS = ("auc", "gauc", "logloss", "ne"), ("norm_gini", "spearman", "pay_auc", "total_error")


class JobConfig(Section):
    """Everything a training run depends on; saved resolved as config.yaml in the run directory."""

    seed: NonNegativeInt = 0
    run: RunSection = RunSection()
    data: DataSection
    model: ModelSection
    start: StartSection = StartSection()
    tables: TablesSection = TablesSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()
    scaling: ScalingSection = ScalingSection()

    @model_validator(mode="before")
    @classmethod
    def _choose_metric(cls, values: Any) -> Any:
        """Amounts have no AUC to stop by; the config that is saved says what was chosen."""
        if not (isinstance(values, dict) and predicts_amounts(values.get("model"))):
            return values
        training = values.get("training") or {}
        stopping = training.get("early_stopping") or {} if isinstance(training, dict) else {}
        if not isinstance(stopping, dict) or "metric" in stopping:
            return values
        return {**values, "training": {**training, "early_stopping": {"metric": AMOUNT_METRICS[0], **stopping}}}

    @model_validator(mode="before")
    @classmethod
    def _refuse_credentials(cls, values: Any) -> Any:
        """Before any key is looked at, since what is said of a wrong one repeats its value."""
        found = [key for key, value in flat_keys(values).items() if _carries_credentials(value)] if isinstance(values, dict) else []
        if found:
            raise ValueError(
                "Credentials must not stand in a job's config, which is printed and saved. "
                f"Received: {', '.join(found)} with a user, a key or a token. "
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your store reads from the environment."
            )
        return values

    @model_validator(mode="after")
    def _check_across_sections(self) -> Self:
        amounts, metric = predicts_amounts(self.model.model_dump()), self.training.early_stopping.metric
        if metric not in (AMOUNT_METRICS if amounts else CLICK_METRICS):
            raise ValueError(
                f"training.early_stopping.metric has to be of {'amounts' if amounts else 'clicks'}, which {self.model.name} predicts. "
                f"Received: {metric}. Choose one of {', '.join(AMOUNT_METRICS if amounts else CLICK_METRICS)}."
            )
        if isinstance(self.model, LtvModel | CdafModel) and self.model.needs_source and not self.data.source_batch_size:
            raise ValueError(
                f"{self.model.name} pre-trains on external rows, so data.source_batch_size has to be above 0. "
                "Received: data.source_batch_size=0. Set it to the external rows of a step, or train ltv with model.external=mix."
            )
        months = self.model.months if isinstance(self.model, EcdctrModel) else 0
        if self.start.snapshots and not months:
            raise ValueError(
                "Snapshots are read by ecdctr, as months. "
                f"Received: start.snapshots of {len(self.start.snapshots)} runs, {months} months of model {self.model.name}. "
                "Raise model.months, or name none."
            )
        if self.tables.backend == "local" and self.scaling.max_workers > 1:
            raise ValueError(
                "tables.backend=local keeps whole tables on one worker, so scaling.num_workers has to be 1. "
                f"Received: scaling.num_workers={self.scaling.max_workers}. Set tables.backend=sharded."
            )
        if self.scaling.in_process and (self.scaling.elastic or self.scaling.max_workers > 1 or self.scaling.use_gpu):
            raise ValueError(
                "scaling.in_process=true is one worker on the CPU. "
                f"Received: scaling.num_workers={self.scaling.describe()}, scaling.use_gpu={str(self.scaling.use_gpu).lower()}. "
                "Set scaling.num_workers=1 and scaling.use_gpu=false, or scaling.in_process=false to leave it to Ray."
            )
        if self.scaling.elastic and self.training.checkpoint_every_steps is None:
            raise ValueError(
                "Elastic workers go on from checkpoints whenever their number changes, so there have to be some between evaluations. "
                "Received: training.checkpoint_every_steps=null. Set it to the steps that a change may cost."
            )
        if self.data.batch_size < self.scaling.max_workers:
            raise ValueError(
                "data.batch_size has to give every worker a row. "
                f"Received: data.batch_size={self.data.batch_size}, scaling.num_workers={self.scaling.max_workers}. Raise it."
            )
        return self


def predicts_amounts(model: Any) -> bool:
    """Whether a section ``model``, as a mapping, is of amounts; clicks are what every other model predicts."""
    if not isinstance(model, Mapping) or model.get("name") not in AMOUNT_MODELS:
        return False
    head = model.get("head")
    return not (isinstance(head, Mapping) and head.get("kind") == "click")


def _carries_credentials(value: Any) -> bool:
    return any(has_credentials(str(each)) for each in (value if isinstance(value, list | tuple) else (value,)))


def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> JobConfig:
    """Reads a job from YAML and applies ``section.key=value`` overrides.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, a value is out of range.
    """
    values = parse_yaml(read_text(path), str(path))
    check_kind(values, str(path), "model")
    return JobConfig.parse(with_overrides(values, overrides), str(path))


def check_kind(values: Mapping[str, Any], origin: str, own_key: str) -> None:
    """Tells a file of another kind from a broken one, by the section that only its kind has.

    Args:
        own_key: of KINDS, what the reader takes.

    Raises:
        ConfigError: ``values`` is a file for another command.
    """
    others = [key for key in KINDS if key in values and key != own_key]
    if others and own_key not in values:
        kind, command = KINDS[others[0]]
        own_kind, own_command = KINDS[own_key]
        raise ConfigError(
            f"`{own_command}` takes {own_kind}, which has `{own_key}:`. "
            f"Received: {origin} with `{others[0]}:`, which looks like {kind}. Run `{command} {origin}`."
        )


def read_text(path: str | Path) -> str:
    """The text of a config file, on any file system.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if "://" in str(path):
            directory, _, name = str(path).rpartition("/")
            return Storage(directory).read_text(name)
        return Path(path).read_text(encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"A config file has to be readable. Received: {path} ({err.strerror}). Check the path.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"A config file has to be UTF-8 text. Received: {path}. Check the path.") from None
