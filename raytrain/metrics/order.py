"""Which way a metric improves. Torch-free, so that reports can be written anywhere; PCOC is best at 1 and has no order."""

HIGHER_IS_BETTER = {"auc": True, "gauc": True, "logloss": False, "ne": False}
