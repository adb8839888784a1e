"""Lifelong histories of two domains in which a few known events decide each label: spec -> rows (pure) -> files. Torch-free."""

from raytrain.data.planted.job import TRUTH_FILE, generate_planted
from raytrain.data.planted.spec import PlantedSpec

__all__ = ["TRUTH_FILE", "PlantedSpec", "generate_planted"]
