"""A year of natural content and ads by day: drifting preferences, users who come back, a known shift: spec -> rows (pure). Torch-free."""

from raytrain.data.planted_drift.rows import draw_day
from raytrain.data.planted_drift.rule import DOMAINS, Rule
from raytrain.data.planted_drift.spec import PlantedDriftSpec
from raytrain.data.planted_drift.truth import TRUTH_FILE, write_truth

__all__ = ["DOMAINS", "TRUTH_FILE", "PlantedDriftSpec", "Rule", "draw_day", "write_truth"]
