"""The section ``model`` of an ADSNet job (arXiv 2406.10517); torch-free. The paper gives no sizes: defaults are our choice."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raytrain.settings import DropoutRate, Section

Units = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class BackboneSection(Section):
    """One network: encoder, experts, towers. Both networks of the pair have this shape."""

    encoder: Literal["fwfm", "inner"] = "fwfm"
    """fwfm: weighted pair products summed to one vector. inner: one weighted inner product a pair."""
    levels: PositiveInt = 1
    """Of experts (PLE); 1 is CGC."""
    task_experts: PositiveInt = 2
    """Of each task, a level."""
    shared_experts: PositiveInt = 2
    expert_units: Units = (128, 64)
    tower_units: Units = (64,)
    """Hidden layers of each tower. Towers are what the ledger differentiates, so their size is its cost."""
    dropout: DropoutRate = 0.0
    """After every hidden layer of a tower; below them nothing is random, so cached tower inputs hold in training and scoring alike."""


class HeadSection(Section):
    """What the towers predict, and its loss."""

    kind: Literal["ordinal", "ziln", "mse", "click"] = "ordinal"
    ordinal: Literal["continuation", "coral"] = "continuation"
    """How the probabilities of exceeding each threshold are kept in order."""
    num_buckets: Annotated[int, Field(ge=1)] = 12
    """Classes of paying rows asked for; thresholds that ties collapse are merged."""
    amount_weight: NonNegativeFloat = 1.0
    """alpha, of the amount inside the true class."""
    blend_weight: NonNegativeFloat = 0.5
    """beta, of the predicted value against the label; it ties the two towers."""
    detach_masses: bool = True
    """Keep the blended loss from moving the class probabilities: it is a median's loss, and most labels are 0."""
    target: Literal["log1p", "raw"] = "log1p"
    """Of kind=mse: the logarithm of 1 + amount, or the amount as a multiple of the mean paid one."""


class BridgeSection(Section):
    """Adapters that tie the gain network's representations to the vanilla ones (knowledge distillation by MSE)."""

    embedding_weight: NonNegativeFloat = 0.1
    tower_weight: NonNegativeFloat = 0.1
    measured_on: Literal["internal", "external", "both"] = "internal"
    """Rows whose distance counts; external ones as far as they are accepted."""
    units: PositiveInt = 32
    """Hidden units of an adapter."""


class GainSection(Section):
    """How an external row's gain is estimated, and what it takes to be accepted."""

    estimator: Literal["ledger", "siamese", "lookahead", "paired", "grad", "none"] = "ledger"
    probe: Literal["internal", "held_out"] = "internal"
    """What ``ledger`` and ``grad`` measure gain on. internal: the running gradient of the steps' own internal rows, which costs no
    look-up. held_out: rows kept out of training. The others always take held-out rows."""
    reference: Literal["held_out", "zero"] = "held_out"
    """What ``ledger`` and ``grad`` compare a gain with. held_out: the gain of internal rows kept out of training, which is what a row
    is worth that a network has not fitted yet; one batch of them is looked up every ``refresh_steps``. zero: nothing."""
    tau: float | None = None
    """Lowest gain that is accepted; of ``ledger`` and ``grad`` a share of an internal row's, of the others a difference of losses. Where
    reference is held_out ``ledger`` counts it from the mean of the slices that are let in, once there are some, and goes down to 2 tau
    at the most. null: -0.075 for
    ``ledger``, -0.1 for ``grad``, -0.3 for both where reference is zero, and the paper's 0 for the rest."""
    first_tau: float | None = None
    """Lowest gain that is accepted at the first joint step, from which it falls to tau in even steps. null: 0.2 for ``ledger`` where
    reference is held_out, else tau."""
    tau_steps: NonNegativeInt = 100
    """Joint steps until tau is reached."""
    entry_margin: NonNegativeFloat | None = None
    """How far above tau the gain of a slice that is left out has to lie before it is let in. null: 0.025 for ``ledger`` where reference
    is held_out, else 0."""
    max_surprise: PositiveFloat | None = 0.25
    """Of ``ledger`` where reference is held_out: how much more a row of a slice that is left out may cost the gain network than held-out
    internal rows of its class of label, where 1 is how far the loss of one of those lies from their mean on average; a slice above it,
    by more than luck, is not let in, whatever its gain. null: no limit. Where external ids are new to internal rows, all slices
    surprise: raise it there."""
    weights: Literal["hard", "soft"] = "hard"
    """hard: 1 from tau on, else 0. soft: sigmoid((gain - tau) / temperature)."""
    temperature: PositiveFloat = 0.1
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """What remains of a slice's evidence when more comes; 0 judges by the step alone, as the paper's siamese arm does."""
    min_rows: NonNegativeInt = 20
    """Rows of a slice that are seen before it is judged; until then it is left out."""
    probe_decay: Annotated[float, Field(ge=0, lt=1)] = 0.97
    """Of probe=internal: what remains of the running gradient at the next step."""
    refresh_steps: PositiveInt = 4
    """Steps between looks at held-out rows, for the gradient of probe=held_out and for reference=held_out."""
    derivative: Literal["jvp", "double_vjp"] = "jvp"
    """Forward mode, or twice reverse mode for layers that lack it."""
    step_size: PositiveFloat = 0.01
    """Of the tentative steps of ``siamese`` and ``lookahead``."""
    slices_per_step: PositiveInt = 1
    """Slices of a batch that ``siamese`` and ``lookahead`` try, those tried longest ago first; each costs a backward pass."""
    watch_every_steps: NonNegativeInt = 20
    """Joint steps between looks of the other one of ``ledger`` and ``siamese``, which decides nothing and is reported beside the one
    that does; 0 leaves it out. It needs held-out rows."""

    @property
    def look_steps(self) -> int:
        """Steps between looks at held-out rows: tentative steps are measured on them at every one."""
        return self.refresh_steps if self.estimator in ("ledger", "grad") else 1

    @property
    def watcher(self) -> "GainSection | None":
        """Of the estimator that only watches; None where there is none."""
        others: dict[str, Literal["ledger", "siamese"]] = {"ledger": "siamese", "siamese": "ledger"}
        if self.estimator not in others or not self.watch_every_steps:
            return None
        # What surprises is told from rows that are left out, which the other one decides.
        free = dict.fromkeys(("tau", "first_tau", "max_surprise"))
        return self.model_copy(update={"estimator": others[self.estimator], "probe": "internal", "refresh_steps": 1, **free})

    @property
    def threshold(self) -> float:
        """tau, given or not."""
        if self.tau is not None:
            return self.tau
        if self.estimator not in ("ledger", "grad"):
            return 0.0
        # Rows that are let in are fitted and gain less than fresh ones; without a reference even those are below 0, for internal and
        # accepted rows that have converged together pull against each other. A row's own gain lies wider than a slice's.
        if self.reference == "zero":
            return -0.3
        return -0.075 if self.estimator == "ledger" else -0.1

    @property
    def margin(self) -> float:
        """entry_margin, given or not."""
        if self.entry_margin is not None:
            return self.entry_margin
        # Rows that are left out are as fresh as the held-out ones they are compared with, so all that keeps a good slice below 0 is the
        # luck of its rows; and one that harms is hard to tell once it is in.
        return 0.025 if self.estimator == "ledger" and self.reference == "held_out" else 0.0

    @property
    def falling_steps(self) -> int:
        """Joint steps in which the threshold lies above tau."""
        falls = self.first_tau is not None or (self.estimator == "ledger" and self.reference == "held_out")
        return self.tau_steps if falls else 0

    def threshold_at(self, step: float) -> float:
        """Lowest gain that is accepted at 0-based joint ``step``.

        Harm that has been let in bends the network until it hardly shows: the first rows have to be better than others.
        """
        first = self.first_tau
        if first is None:
            first = 0.2 if self.estimator == "ledger" and self.reference == "held_out" else self.threshold
        left = max(0.0, 1.0 - step / self.tau_steps) if self.tau_steps else 0.0
        return self.threshold + (first - self.threshold) * left


class AlignSection(Section):
    """How the two networks, tables included, are brought together again."""

    direction: Literal["g2v", "v2g", "average", "none"] = "g2v"
    every_steps: PositiveInt = 200
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How far the receiver moves: 1 copies; with every_steps=1 and g2v a small share makes the vanilla network a moving average of the
    gain network (a mean teacher)."""

    l2_sp_weight: NonNegativeFloat = 0.0
    """lambda of lambda / 2 |G - V|^2, which holds the gain network's parameters near the vanilla ones, tables left out (L2-SP, Li et al.
    2018); with direction=none it takes the place of copies."""

    @model_validator(mode="after")
    def _check_share(self) -> Self:
        if self.direction == "average" and self.share != 1.0:
            raise ValueError(f"An average has no receiver. Received: direction=average, share={self.share:g}. Set share to 1.")
        return self


class BackboneModel(Section):
    """What models of this backbone share, whether they have one of it or two."""

    skip_features: tuple[str, ...] = ()
    """Features left out of every network."""
    backbone: BackboneSection = BackboneSection()
    head: HeadSection = HeadSection()


class AdsnetModel(BackboneModel):
    """ADSNet: a vanilla network on internal rows and a gain network on internal and accepted external rows."""

    name: Literal["adsnet"] = "adsnet"
    bridge: BridgeSection = BridgeSection()
    gain: GainSection = GainSection()
    align: AlignSection = AlignSection()
    warmup_steps: NonNegativeInt = 200
    """Steps in which the vanilla network alone learns, before the gain network starts as its copy."""
    external_weight: NonNegativeFloat = 1.0
    """Of the external rows' mean loss beside the internal rows', when all are accepted."""

    @property
    def preparation_steps(self) -> int:
        """Steps until the ledger judges by tau: what comes out earlier has learnt from few external rows, whatever they are worth."""
        return self.warmup_steps + self.gain.falling_steps
