"""Lifetime values of two domains with a planted truth: for measuring whether a model finds the external slices that harm."""

from typing import Literal

from raytrain.data.planted_ltv import PlantedLtvSpec


class PlantedLtvRecipe(PlantedLtvSpec):
    """A ``PlantedLtvSpec`` written in YAML; see configs/prepare_planted_ltv.yaml. It has no events to stage."""

    name: Literal["planted_ltv"] = "planted_ltv"
