"""Scores as text for programs: JSON and CSV, in the forms of vitpe.reporting.records."""

from dataclasses import asdict
from typing import Any

import numpy as np

from vitpe.inference.predictions import EvalInfo
from vitpe.inference.suspects import SuspectLabels
from vitpe.metrics.comparison import Comparison, PairedDifference
from vitpe.metrics.groups import GroupScores
from vitpe.metrics.names import METRICS
from vitpe.metrics.scores import LEVEL, Scores
from vitpe.reporting.group_records import group_order, group_record
from vitpe.reporting.metric_formats import sort_order
from vitpe.reporting.records import SCHEMA, csv_table, dumps, plain
from vitpe.reporting.suspect_records import suspects_record


def eval_json(
    scores: Scores,
    info: EvalInfo,
    sort: str | None = None,
    indent: int | None = 2,
    groups: GroupScores | None = None,
    suspects: SuspectLabels | None = None,
) -> str:
    """One JSON object; with `indent` None it is one line, as JSON lines want it.

    {"schema": 1, "checkpoint", "split", "data_source", "step", "thresholds", "calibration", "num_images",
    "num_attributes", "bootstrap": {"num_resamples", "seed", "level"}, "mean": {metric: {"value", "low", "high",
    "num_undefined"}}, "attributes": [{"attribute", "threshold", metric: value, …}]}. Scores are fractions. With
    groups there is "by", too, see `vitpe.reporting.group_records`; with suspects "suspects", see `suspects_record`.
    """
    order = sort_order(scores, sort) if groups is None else group_order(groups, scores, sort)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        **asdict(info),
        "num_images": scores.num_images,
        "num_attributes": len(scores.attributes),
        "bootstrap": _bootstrap(scores.num_resamples, scores.seed),
        "mean": {metric: asdict(mean) for metric, mean in scores.means.items()},
        "attributes": [_attribute_row(scores, a) for a in order],
    }
    if groups is not None:
        document["by"] = group_record(groups, order)
    if suspects is not None:
        document["suspects"] = suspects_record(suspects)
    return dumps(plain(document), indent) + "\n"


def eval_csv(scores: Scores, sort: str | None = None) -> str:
    """A row for each attribute: attribute, num_images, threshold, and every metric as a fraction."""
    rows = [{"num_images": scores.num_images} | _attribute_row(scores, a) for a in sort_order(scores, sort)]
    return csv_table(["attribute", "num_images", "threshold", *METRICS], rows)


def compare_json(comparison: Comparison, first: EvalInfo, second: EvalInfo, indent: int | None = 2) -> str:
    """One JSON object; every difference is second minus first, and "exceeds" says that its interval does not hold 0.

    Means are over the attributes for which a metric is defined for both.

    {"schema": 1, "first": info, "second": info, "num_images", "num_attributes", "bootstrap", "mean": {metric:
    {"first", "second", "difference", "low", "high", "exceeds"}}, "attributes": [{"attribute", metric: {the same}}]}.
    """
    before, after = comparison.first, comparison.second
    document = {
        "schema": SCHEMA,
        "first": asdict(first),
        "second": asdict(second),
        "num_images": before.num_images,
        "num_attributes": len(before.attributes),
        "bootstrap": _bootstrap(comparison.num_resamples, comparison.seed),
        "mean": {
            metric: dict(zip(("first", "second"), comparison.both(metric), strict=True))
            | _difference(comparison.means[metric])
            for metric in METRICS
        },
        "attributes": [
            {"attribute": name}
            | {
                metric: {"first": before[metric][a], "second": after[metric][a]}
                | _difference(comparison.per_attribute[metric], a)
                for metric in METRICS
            }
            for a, name in enumerate(before.attributes)
        ],
    }
    return dumps(plain(document), indent) + "\n"


def compare_csv(comparison: Comparison) -> str:
    """A row for each attribute and metric: attribute, metric, first, second, difference, low, high, exceeds."""
    rows = [
        {"attribute": name, "metric": metric}
        | {"first": comparison.first[metric][a], "second": comparison.second[metric][a]}
        | _difference(comparison.per_attribute[metric], a)
        for a, name in enumerate(comparison.first.attributes)
        for metric in METRICS
    ]
    return csv_table(["attribute", "metric", "first", "second", "difference", "low", "high", "exceeds"], rows)


def _attribute_row(scores: Scores, a: int) -> dict[str, Any]:
    row: dict[str, Any] = {"attribute": scores.attributes[a], "threshold": scores.thresholds[a]}
    return row | {metric: scores[metric][a] for metric in METRICS}


def _bootstrap(num_resamples: int, seed: int) -> dict[str, Any] | None:
    return {"num_resamples": num_resamples, "seed": seed, "level": LEVEL} if num_resamples else None


def _difference(difference: PairedDifference, at: int | tuple[()] = ()) -> dict[str, Any]:
    return {
        "difference": difference.value[at],
        "low": difference.low[at],
        "high": difference.high[at],
        "exceeds": bool(difference.exceeds[at]) if np.isfinite(difference.low[at]) else None,
    }
