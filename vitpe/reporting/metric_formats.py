"""How each metric is called and written for people: whoever adds one to vitpe.metrics.scores adds a line here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from vitpe.errors import UsageError
from vitpe.inference.predictions import nearest
from vitpe.metrics.names import LOWER_IS_BETTER, METRICS, SORT_KEYS
from vitpe.metrics.scores import Scores
from vitpe.reporting.terminal import UNICODE, Glyphs


@dataclass(frozen=True)
class MetricFormat:
    """heading: over a narrow column; --sort takes it in small letters, too, and `aliases`. name: in full.

    digits, percent, signed: of its numbers. graded: the weakest attributes are coloured.
    """

    heading: str
    name: str
    aliases: tuple[str, ...] = ()
    digits: int = 1
    percent: bool = True
    signed: bool = False
    graded: bool = False

    def text(self, value: float, glyphs: Glyphs = UNICODE, more_digits: int = 0, signed: bool | None = None) -> str:
        """`value` as text; a dash for NaN, a real minus, and no sign before zero."""
        if math.isnan(value):
            return glyphs.dash
        digits = self.digits + more_digits
        scaled = round(100 * value if self.percent else value, digits) + 0.0  # never -0.0
        with_sign = self.signed if signed is None else signed
        text = f"{scaled:+.{digits}f}" if with_sign and scaled else f"{scaled:.{digits}f}"
        return text.replace("-", glyphs.minus)

    def interval(
        self, low: float, high: float, glyphs: Glyphs = UNICODE, more_digits: int = 1, signed: bool | None = None
    ) -> str:
        """ "[86.90, 87.35]"; empty where there is no interval."""
        if math.isnan(low):
            return ""
        return "[{}, {}]".format(*(self.text(end, glyphs, more_digits, signed) for end in (low, high)))


FORMATS: Final[Mapping[str, MetricFormat]] = {
    "accuracy": MetricFormat("acc", "accuracy"),
    "lift": MetricFormat("lift", "lift", signed=True),
    "majority_accuracy": MetricFormat("major", "majority answer", aliases=("majority",)),
    "roc_auc": MetricFormat("AUC", "ROC AUC", graded=True),
    "average_precision": MetricFormat("AP", "average precision", graded=True),
    "f1": MetricFormat("F1", "F1", graded=True),
    "prevalence": MetricFormat("prev", "prevalence"),
    "precision": MetricFormat("prec", "precision", graded=True),
    "recall": MetricFormat("rec", "recall", graded=True),
    "balanced_accuracy": MetricFormat("bal", "balanced accuracy", aliases=("balanced",), graded=True),
    "ece": MetricFormat("ECE", "calibration error", digits=3, percent=False, graded=True),
    "threshold": MetricFormat("thr", "threshold", digits=2, percent=False),
    "brier": MetricFormat("Brier", "Brier score", digits=3, percent=False),
}
"""In order of importance: a narrow table leaves out the last ones first."""
SUMMARY: Final = {
    "accuracy": "accuracy",
    "majority_accuracy": "majority",
    "lift": "lift",
    "average_precision": "mAP",
    "roc_auc": "AUC",
    "f1": "F1",
    "balanced_accuracy": "balanced",
    "brier": "Brier",
    "ece": "ECE",
}
"""The metrics whose means stand below a table, and what these are called there."""
_SORT_ALIASES: Final = {
    alias: metric for metric in METRICS for alias in (FORMATS[metric].heading.lower(), *FORMATS[metric].aliases)
}


def sort_key(sort: str | None) -> str | None:
    """Which of SORT_KEYS `sort` means, see `sort_order`. Raises UsageError for a column that is not there."""
    if sort is None:
        return None
    name = sort.removeprefix("-").lower()
    key = _SORT_ALIASES.get(name, name)
    if key not in SORT_KEYS:
        raise UsageError(f"no column {sort!r} to sort by", nearest(key, SORT_KEYS))
    return key


def sort_order(scores: Scores, sort: str | None) -> list[int]:
    """Attribute numbers in the order to show them: as they come for None, else by a column, the best first.

    sort: one of SORT_KEYS or a short form (ap, auc, acc, …); "-" in front turns it round. "attribute" sorts by name,
    "prevalence", "majority_accuracy" and "threshold" from high to low. Undefined ones come last either way.
    Raises UsageError for a column that is not there.
    """
    key = sort_key(sort)
    numbers = range(len(scores.attributes))
    if sort is None or key is None:
        return list(numbers)
    turned = sort.startswith("-")
    if key == "attribute":
        return sorted(numbers, key=lambda a: scores.attributes[a].casefold(), reverse=turned)
    values = scores.thresholds if key == "threshold" else scores[key]
    sign = 1 if (key in LOWER_IS_BETTER) != turned else -1
    return [int(a) for a in np.argsort(sign * values, kind="stable")]  # NaN sorts last
