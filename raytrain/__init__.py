"""raytrain: cross-domain advertising and recommendation models on Ray and TorchRec."""

__version__ = "0.1.0"
