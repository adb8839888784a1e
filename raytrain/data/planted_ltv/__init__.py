"""Lifetime values in two domains, some of whose external slices are known to harm: spec -> rows (pure) -> files. Torch-free."""

from raytrain.data.planted_ltv.job import TRUTH_FILE, generate_planted_ltv
from raytrain.data.planted_ltv.spec import PlantedLtvSpec

__all__ = ["TRUTH_FILE", "PlantedLtvSpec", "generate_planted_ltv"]
