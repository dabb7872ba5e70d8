"""Scores and predictions as text for programs: JSON, JSON lines and CSV. Nothing here knows of terminals.

Every JSON object carries "schema": 1. Fields may be added under that number; a field that is there keeps its name,
type and meaning. What is undefined is null in JSON and an empty cell in CSV. All lines end in "\\n".
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vitpe.inference.predictions import EvalInfo, Prediction
from vitpe.metrics.comparison import Comparison, PairedDifference
from vitpe.metrics.scores import LEVEL, METRICS, Scores
from vitpe.reporting.metric_formats import sort_order

SCHEMA = 1
_FIXED_COLUMNS = ("file", "present", "error")


def eval_json(scores: Scores, info: EvalInfo, sort: str | None = None, indent: int | None = 2) -> str:
    """One JSON object; with `indent` None it is one line, as JSON lines want it.

    {"schema": 1, "checkpoint", "split", "data_source", "step", "thresholds", "calibration", "num_images",
    "num_attributes", "bootstrap": {"num_resamples", "seed", "level"}, "mean": {metric: {"value", "low", "high",
    "num_undefined"}}, "attributes": [{"attribute", "threshold", metric: value, …}]}. Scores are fractions.
    """
    document = {
        "schema": SCHEMA,
        **asdict(info),
        "num_images": scores.num_images,
        "num_attributes": len(scores.attributes),
        "bootstrap": _bootstrap(scores.num_resamples, scores.seed),
        "mean": {metric: asdict(mean) for metric, mean in scores.means.items()},
        "attributes": [_attribute_row(scores, a) for a in sort_order(scores, sort)],
    }
    return _dumps(_plain(document), indent) + "\n"


def eval_csv(scores: Scores, sort: str | None = None) -> str:
    """A row for each attribute: attribute, num_images, threshold, and every metric as a fraction."""
    rows = [{"num_images": scores.num_images} | _attribute_row(scores, a) for a in sort_order(scores, sort)]
    return _csv(["attribute", "num_images", "threshold", *METRICS], rows)


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
    return _dumps(_plain(document), indent) + "\n"


def compare_csv(comparison: Comparison) -> str:
    """A row for each attribute and metric: attribute, metric, first, second, difference, low, high, exceeds."""
    rows = [
        {"attribute": name, "metric": metric}
        | {"first": comparison.first[metric][a], "second": comparison.second[metric][a]}
        | _difference(comparison.per_attribute[metric], a)
        for a, name in enumerate(comparison.first.attributes)
        for metric in METRICS
    ]
    return _csv(["attribute", "metric", "first", "second", "difference", "low", "high", "exceeds"], rows)


def prediction_json(prediction: Prediction) -> str:
    """A prediction as one line of JSON, without its end of line.

    {"schema": 1, "file": "face.jpg", "probs": {"Smiling": 0.97, …}, "present": ["Smiling", …]}, or where the file
    could not be read {"schema": 1, "file": "bad.jpg", "error": "…"}. Probabilities have 6 decimals.
    """
    record: dict[str, Any] = {"schema": SCHEMA, "file": prediction.file}
    if prediction.error is not None:
        record["error"] = prediction.error
    else:
        record |= {"probs": dict(prediction.probs), "present": list(prediction.present)}
    return _dumps(record, None)


def prediction_lines(kind: str, predictions: Iterable[Prediction], attributes: Sequence[str]) -> Iterator[str]:
    """The predictions as text of `kind` ("jsonl", "json" or "csv"), in pieces as they come."""
    if kind == "csv":
        return predictions_csv(predictions, attributes)
    return predictions_jsonl(predictions) if kind == "jsonl" else predictions_json(predictions)


def predictions_jsonl(predictions: Iterable[Prediction]) -> Iterator[str]:
    """A line of JSON for each prediction, given as soon as the prediction is there."""
    for prediction in predictions:
        yield prediction_json(prediction) + "\n"


def predictions_json(predictions: Iterable[Prediction]) -> Iterator[str]:
    """The same records as one JSON array, in pieces, so that no more than one prediction is held."""
    separator = "[\n"
    for prediction in predictions:
        yield separator + prediction_json(prediction)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def predictions_csv(predictions: Iterable[Prediction], attributes: Sequence[str]) -> Iterator[str]:
    """A header, then a row for each prediction: file, present (joined by ";"), error, and each attribute's probability.

    An attribute that is not listed for a file (see `top`) is an empty cell. One that is called as a column before it,
    say "file", has its column named "attribute:file". Cells hold names as they are, also those that begin as formulas.
    """
    columns = list(_FIXED_COLUMNS)
    for name in attributes:
        column = name
        while column in columns or (column != name and column in attributes):
            column = f"attribute:{column}"
        columns.append(column)
    yield _csv_line(columns)
    for prediction in predictions:
        probs = [prediction.probs.get(name, "") for name in attributes]
        yield _csv_line([prediction.file, ";".join(prediction.present), prediction.error or "", *probs])


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


def _dumps(document: Mapping[str, Any], indent: int | None) -> str:
    """JSON with letters of any language as they are; a file name that is no valid text is written with escapes."""
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(document, indent=indent, ensure_ascii=True, allow_nan=False)
    return text


def _plain(value: Any) -> Any:
    """numpy numbers → Python's, NaN → None."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _csv(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    lines = [_csv_line(header)]
    for row in rows:
        lines.append(_csv_line([_cell(_plain(row[name])) for name in header]))
    return "".join(lines)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # the writer quotes only the line ends that it uses
    return line.getvalue().removesuffix("\r\n") + "\n"
