"""The names of the scores, for whoever offers or checks them: without numpy, which computes them."""

from typing import Final

METRICS: Final = (
    "prevalence",
    "accuracy",
    "majority_accuracy",
    "lift",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "average_precision",
    "roc_auc",
    "brier",
    "ece",
)
LOWER_IS_BETTER: Final = frozenset({"brier", "ece"})
SORT_KEYS: Final = ("attribute", "threshold", *METRICS)
"""What a table of scores can be sorted by."""
