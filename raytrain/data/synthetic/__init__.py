"""Planted data of any size, straight to Parquet: spec -> rows (pure) -> files. Torch-free."""

from raytrain.data.synthetic.job import drafted, generate
from raytrain.data.synthetic.manifest import synthetic_manifest
from raytrain.data.synthetic.spec import SyntheticSpec

__all__ = ["SyntheticSpec", "drafted", "generate", "synthetic_manifest"]
