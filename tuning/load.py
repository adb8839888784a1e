"""SWEEP.yaml -> a checked sweep, of a job or of a roll. Torch-free."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipelines.roll_config import Roll
from raytrain.config import JobConfig, check_kind, read_text
from raytrain.errors import ConfigError
from raytrain.settings import nearest, parse_yaml, with_overrides
from raytrain.storage import has_credentials
from tuning.job_plan import JobPlan
from tuning.plan import SweepPlan, key_of
from tuning.roll_plan import RollSweepPlan
from tuning.sweep_config import Sweep


def load_sweep(path: str, overrides: Sequence[str] = ()) -> SweepPlan:
    """Reads SWEEP.yaml. A key of the sweep changes the sweep (``num_trials=12``), any other every trial (``data.path=x``).

    Raises:
        RaytrainError: the file, a trial that the space may draw, or the data set is not right.
    """
    plan = read_sweep(path, overrides)
    plan.check_data()
    return plan


def read_sweep(path: str, overrides: Sequence[str] = ()) -> SweepPlan:
    """As ``load_sweep``, without a look at the data set.

    Raises:
        ConfigError: the file, or a trial that the space may draw, is not right.
    """
    # base.data.path is a roll's: the sweep's own base is named as a whole.
    own = [one for one in overrides if key_of(one).split(".")[0] in Sweep.model_fields and not key_of(one).startswith("base.")]
    values = parse_yaml(read_text(path), path)
    check_kind(values, path, "space")
    sweep = Sweep.parse(with_overrides(values, own), path)
    of_trials = tuple(override for override in overrides if override not in own)
    base = sweep.base if isinstance(sweep.base, dict) else parse_yaml(read_text(Path(path).parent / sweep.base), sweep.base)
    of_base = Roll.model_fields if "calendar" in base else JobConfig.model_fields
    for key in (key_of(one) for one in of_trials):
        if key.split(".")[0] not in of_base:
            known = {*Sweep.model_fields, *of_base}
            raise ConfigError(f"{path}: A key is of the sweep or of its trials. Received: {key}. {nearest(key.split('.')[0], known)}")
    sweep = sweep.model_copy(update={"overrides": (*sweep.overrides, *of_trials), "base": base})
    if has_credentials(json.dumps(sweep.model_dump(mode="json"))):
        raise ConfigError(
            f"{path}: Credentials must not stand in a sweep, which is saved. Received: a URI with a user, a key or a token. "
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your store reads from the environment."
        )
    return RollSweepPlan(sweep, base, path) if "calendar" in base else JobPlan(sweep, base, path)
