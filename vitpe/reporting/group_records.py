"""Scores of groups as text for programs, in the forms of vitpe.reporting.records, and the order they are shown in."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from vitpe.errors import UsageError
from vitpe.metrics.groups import GAPS, GROUP_METRICS, RATES, GroupScores
from vitpe.metrics.scores import Scores
from vitpe.reporting.metric_formats import sort_key, sort_order
from vitpe.reporting.records import csv_table

_ENDS: Final = ("accuracy_low", "accuracy_high")
CSV_HEADER: Final = (
    *("attribute", "group", "num_images", *GROUP_METRICS, *_ENDS, *(f"{rate}_ranked" for rate in RATES), "worst_group"),
    *(f"{gap}_gap{end}" for gap in GAPS for end in ("", "_low", "_high")),
)


def check_sort(sort: str | None) -> None:
    """UsageError for what `group_order` does not know."""
    if sort is None or sort.removeprefix("-") != "gap":
        try:
            sort_key(sort)
        except UsageError as error:
            raise UsageError(error.message, f"{error.hint} (with --by there is gap, too)") from None


def group_order(groups: GroupScores, scores: Scores, sort: str | None = None) -> list[int]:
    """Attribute numbers, the largest gap of accuracies first for "gap"; else as in `sort_order`."""
    if sort is None or sort.removeprefix("-") != "gap":
        return sort_order(scores, sort)
    sign = 1 if sort.startswith("-") else -1
    return [int(a) for a in np.argsort(sign * groups.gaps["accuracy"].value, kind="stable")]  # NaN sorts last


def group_record(groups: GroupScores, order: Sequence[int]) -> dict[str, Any]:
    """What JSON holds under "by"; attributes in `order`.

    {"attributes": [those that part the images], "min_count", "num_outside", "groups": [{"group", "num_images",
    "train_share"}], "mean_accuracy": mean, "mean_accuracy_reweighted_by_train_shares": mean or null, "mean_gaps": {gap:
    mean}, "scores": [{"attribute", metric of all images: value, "worst_group", "groups": [{"group", metric: value,
    "accuracy_low", "accuracy_high", "ranked": {rate: bool}}], "gaps": {gap: {"value", "low", "high", "highest",
    "lowest", "rate"}}}]}. A mean is as in "mean" of the whole document.
    """
    shares = [None] * len(groups.groups) if groups.train_shares is None else groups.train_shares.tolist()
    return {
        "attributes": groups.grouping.by,
        "min_count": groups.min_count,
        "num_outside": groups.num_outside,
        "groups": [
            {"group": name, "num_images": count, "train_share": share}
            for name, count, share in zip(groups.groups, groups.counts.tolist(), shares, strict=True)
        ],
        "mean_accuracy": asdict(groups.mean_accuracy),
        "mean_accuracy_reweighted_by_train_shares": (
            None if groups.mean_reweighted is None else asdict(groups.mean_reweighted)
        ),
        "mean_gaps": {name: asdict(mean) for name, mean in groups.mean_gaps.items()},
        "scores": [_attribute(groups, a) for a in order],
    }


def groups_csv(groups: GroupScores, order: Sequence[int]) -> str:
    """For each attribute a row of all images, whose group is empty and which has the gaps, then one of each group."""
    rows: list[dict[str, Any]] = []
    for a in order:
        record = _attribute(groups, a)
        whole = dict.fromkeys(CSV_HEADER) | {"num_images": int(groups.counts.sum())}
        whole |= {name: record[name] for name in ("attribute", *GROUP_METRICS, "worst_group")}
        for name, gap in record["gaps"].items():
            whole |= {f"{name}_gap": gap["value"], f"{name}_gap_low": gap["low"], f"{name}_gap_high": gap["high"]}
        rows.append(whole)
        for count, group in zip(groups.counts, record["groups"], strict=True):
            row = dict.fromkeys(CSV_HEADER) | {"attribute": record["attribute"], "num_images": count}
            row |= {name: group[name] for name in ("group", *GROUP_METRICS, *_ENDS)}
            rows.append(row | {f"{rate}_ranked": group["ranked"][rate] for rate in RATES})
    return csv_table(CSV_HEADER, rows)


def _attribute(groups: GroupScores, a: int) -> dict[str, Any]:
    def name(group: int) -> str | None:
        return None if group < 0 else groups.groups[group]

    return {
        "attribute": groups.attributes[a],
        **{metric: groups.whole[metric][a] for metric in GROUP_METRICS},
        "worst_group": name(groups.worst[a]),
        "groups": [
            {"group": group}
            | {metric: groups[metric][g, a] for metric in GROUP_METRICS}
            | {"accuracy_low": groups.accuracy_low[g, a], "accuracy_high": groups.accuracy_high[g, a]}
            | {"ranked": {rate: bool(groups.ranked[rate][g, a]) for rate in RATES}}
            for g, group in enumerate(groups.groups)
        ],
        "gaps": {
            key: {
                "value": gap.value[a],
                "low": gap.low[a],
                "high": gap.high[a],
                "highest": name(gap.highest[a]),
                "lowest": name(gap.lowest[a]),
                "rate": gap.rates[a] or None,
            }
            for key, gap in groups.gaps.items()
        },
    }
