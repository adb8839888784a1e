"""Which way a metric improves. Torch-free, so that reports can be written anywhere.

PCOC and the ratio of totals are best at 1 and have no order; ``total_error`` is the latter's.
"""

HIGHER_IS_BETTER = {
    "auc": True,
    "gauc": True,
    "logloss": False,
    "ne": False,
    "norm_gini": True,
    "spearman": True,
    "pay_auc": True,
    "decile_mape": False,
    "nrmse": False,
    "nmae": False,
    "total_error": False,
}
