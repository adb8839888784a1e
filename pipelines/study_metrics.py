"""Which metrics a study may ask of a data set: those of clicks, or those of amounts. Torch-free."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from raytrain.data.contract import Contract
from raytrain.errors import ConfigError
from raytrain.metrics.bootstrap import CLICK_METRICS, ComparedMetric, RankedLtvMetric

SearchMetric = ComparedMetric | Literal["ne"]
"""What validation can choose a trial by; NE is no more than log loss over that of a constant, so arms are not compared by it."""


def check_metrics(asked: Mapping[str, Sequence[str]], contract: Contract, data_path: str) -> None:
    """Refuses metrics that are not of the data set's labels.

    asked: key of the study -> its metrics.

    Raises:
        ConfigError: clicks are asked for a metric of amounts, or amounts for one of clicks.
    """
    amounts = contract.amount is not None
    known = get_args(RankedLtvMetric) if amounts else CLICK_METRICS
    fitting = known if amounts else (*known, "ne")
    wrong = [f"{key}={metric}" for key, metrics in asked.items() for metric in metrics if metric not in fitting]
    if wrong:
        raise ConfigError(
            f"A study's metrics have to be of the data set's labels, which are {'amounts' if amounts else 'clicks'}. "
            f"Received: {', '.join(wrong)}, data.path={data_path}. Set {', '.join(dict.fromkeys(one.partition('=')[0] for one in wrong))} "
            f"to {'some' if len(wrong) > 1 else 'one'} of {', '.join(known)}."
        )
