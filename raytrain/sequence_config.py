"""What the sections ``model`` of all models over histories have in common. Torch-free."""

from pydantic import PositiveInt

from raytrain.settings import DropoutRate, Section


class SequenceModel(Section):
    """What all models over histories share: features, the histories they see, and the head. Defaults are our choice."""

    histories: tuple[str, ...] | None = None
    """Domains whose history is attended to; null: every domain that has one. Empty: none, for models that can do without."""
    skip_features: tuple[str, ...] = ()
    """Features left out of the network. Skip the user id where most scored users are new: their rows are untrained."""
    side: tuple[str, ...] | None = None
    """Side information of history events that is used; null: all there is."""
    hidden_units: tuple[PositiveInt, ...] = (128, 64)
    dropout: DropoutRate = 0.0
    """After every hidden layer of the head."""
    input_dropout: DropoutRate = 0.0
    """On the head's inputs: keeps it from telling users apart by their pooled histories."""
