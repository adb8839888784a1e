"""Which knob matters, from the trials themselves: Optuna's fANOVA over finished trials."""

import optuna

from tuning.space import Space
from tuning.trial_log import TrialRecord

LEAST_TRIALS = 6
"""Below, a forest sees nothing but noise."""


def importances(records: list[TrialRecord], space: Space) -> dict[str, float]:
    """Knob -> share of the first objective's variance it explains (fANOVA, Hutter et al. 2014), the largest first, from finished trials.

    Empty below LEAST_TRIALS of them, or where all came to the same value.
    """
    done = [record for record in records if record.status == "finished"]
    if len(done) < LEAST_TRIALS or len({record.value for record in done}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: distribution.to_optuna() for key, distribution in space.items()}
    study = optuna.create_study()
    for record in done:
        params = {key: space[key].encode(value) for key, value in record.params.items()}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=record.value))
    # A knob that never varied has no importance, and Optuna leaves it out.
    found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))
    return {key: float(value) for key, value in found.items()}
