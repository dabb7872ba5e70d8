"""Two models compared group by group, as text for programs, in the forms of vitpe.reporting.records."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.comparison import PairedDifference
from vitpe.metrics.group_comparison import GroupComparison
from vitpe.metrics.groups import RATES
from vitpe.metrics.scores import LEVEL
from vitpe.reporting.records import SCHEMA, csv_table, dumps, plain

_DIFFERENCE: Final = ("first", "second", "difference", "low", "high", "exceeds")


def group_comparison_json(comparison: GroupComparison, first: EvalInfo, second: EvalInfo) -> str:
    """One JSON object; every difference is second minus first, and "exceeds" says that its interval does not hold 0.

    {"schema": 1, "first": info, "second": info, "bootstrap", "by": {"attributes", "min_count", "num_outside", "groups":
    [{"group", "num_images"}]}, "attributes": [{"attribute", "worst_group": {"first_group", "second_group", "first",
    "second", "difference", "low", "high", "exceeds"}, "groups": [{"group", rate: {"first", "second", …}}]}]}.
    """
    groups = comparison.first
    document = {
        "schema": SCHEMA,
        "first": asdict(first),
        "second": asdict(second),
        "bootstrap": {"num_resamples": comparison.num_resamples, "seed": comparison.seed, "level": LEVEL},
        "by": {
            "attributes": groups.grouping.by,
            "min_count": groups.min_count,
            "num_outside": groups.num_outside,
            "groups": [
                {"group": name, "num_images": count}
                for name, count in zip(groups.groups, groups.counts.tolist(), strict=True)
            ],
        },
        "attributes": [
            {"attribute": name, "worst_group": _worst(comparison, a)}
            | {"groups": [{"group": group} | _rates(comparison, g, a) for g, group in enumerate(groups.groups)]}
            for a, name in enumerate(groups.attributes)
        ],
    }
    return dumps(plain(document), 2) + "\n"


def group_comparison_csv(comparison: GroupComparison) -> str:
    """For each attribute a row of the accuracy in each model's own worst group, whose group is empty, then one of each
    group and rate.
    """
    return csv_table(("attribute", "group", "num_images", "rate", *_DIFFERENCE), _rows(comparison))


def _rows(comparison: GroupComparison) -> Iterator[dict[str, Any]]:
    groups = comparison.first
    for a, name in enumerate(groups.attributes):
        yield {"attribute": name, "group": None, "num_images": None, "rate": "accuracy"} | _worst(comparison, a)
        for g, (group, count) in enumerate(zip(groups.groups, groups.counts.tolist(), strict=True)):
            for rate, values in _rates(comparison, g, a).items():
                yield {"attribute": name, "group": group, "num_images": count, "rate": rate} | values


def _worst(comparison: GroupComparison, a: int) -> dict[str, Any]:
    first, second = comparison.first, comparison.second
    before, after = (values[a] for values in comparison.worst_accuracies())
    names = {
        key: groups.groups[groups.worst[a]] if groups.worst[a] >= 0 else None
        for key, groups in (("first_group", first), ("second_group", second))
    }
    return names | {"first": before, "second": after} | _difference(comparison.worst, a)


def _rates(comparison: GroupComparison, g: int, a: int) -> dict[str, dict[str, Any]]:
    return {
        rate: {"first": comparison.first[rate][g, a], "second": comparison.second[rate][g, a]}
        | _difference(comparison.differences[rate], (g, a))
        for rate in RATES
    }


def _difference(difference: PairedDifference, at: int | tuple[int, int]) -> dict[str, Any]:
    return {
        "difference": difference.value[at],
        "low": difference.low[at],
        "high": difference.high[at],
        "exceeds": bool(difference.exceeds[at]) if np.isfinite(difference.low[at]) else None,
    }
