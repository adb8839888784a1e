"""Planted data of any size, straight to Parquet: spec -> rows (pure) -> files. Torch-free."""

from raytrain.data.synthetic.job import generate
from raytrain.data.synthetic.manifest import synthetic_manifest
from raytrain.data.synthetic.spec import SyntheticSpec

__all__ = ["SyntheticSpec", "generate", "synthetic_manifest"]
