"""Planted rows of any number, straight to Parquet: for benchmarks, for proofs, and to try a cluster before the data is there."""

from typing import Literal

from raytrain.data.synthetic import SyntheticSpec


class SyntheticRecipe(SyntheticSpec):
    """A ``SyntheticSpec`` written in YAML; see configs/prepare_synthetic.yaml. It has no events to stage."""

    name: Literal["synthetic"] = "synthetic"
