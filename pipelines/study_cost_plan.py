"""What ``cost:`` in STUDY.yaml measures, what one process is asked, and what it answers. Torch-free."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from raytrain.config import JobConfig
from raytrain.settings import Section


class CostPlan(Section):
    """Training and scoring of every network, measured on this machine's CPU after the runs; plain baselines have no steps."""

    batch_size: PositiveInt | None = None
    """Target rows of a training step; null: the job's. Source rows of a step stay the job's."""
    seconds: PositiveFloat = 5.0
    """Time that a round trains an arm for, and the most it scores for."""
    num_candidates: PositiveInt = 500
    """Items scored for one user's request."""
    num_threads: PositiveInt = 1
    """Of torch."""
    num_rounds: PositiveInt = 3
    """Every arm is measured once a round, arm after arm: a machine that slows down slows all of them."""


class CostRequest(Section):
    """What one process is to measure."""

    job: JobConfig
    plan: CostPlan


class MeasuredCost(Section):
    """What one process measured of one arm."""

    samples_per_s: PositiveFloat
    """Rows of all domains trained a second, from batches in memory: no reading, no checkpoint; padding counts, as in a run."""
    num_steps: PositiveInt
    """Timed ones."""
    batch_rows: PositiveFloat
    """Rows of all domains in a step, mean."""
    flops_per_sample: NonNegativeFloat
    """Forward and backward; ``study_cost_stage.flops_per_sample`` says of what."""
    num_dense_parameters: NonNegativeInt
    """Of the network, tables left out."""
    table_mib: NonNegativeFloat
    """Weights of the tables, without optimizer state."""
    peak_rss_mib: NonNegativeFloat
    """Highest resident memory in building and training, over what the process held just before, with its libraries loaded
    and warm and its batches read: weights, optimizer state, activations and gradients of one rank."""
    request_ms: tuple[PositiveFloat, PositiveFloat]
    """Median and 95th percentile of the time to score one request, ms."""
    num_requests: PositiveInt
    """Timed ones."""
