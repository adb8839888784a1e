"""Lifelong histories with a planted truth: for measuring whether a model finds the few events that decide."""

from typing import Literal

from raytrain.data.planted import PlantedSpec


class PlantedRecipe(PlantedSpec):
    """A ``PlantedSpec`` written in YAML; see configs/prepare_planted.yaml. It has no events to stage."""

    name: Literal["planted"] = "planted"
