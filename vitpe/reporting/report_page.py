"""Scores as one self-contained web page to hand in: everything that `eval` knows, sorted and opened by click.

The page holds numbers alone, no image and no answer for an image but of those labels that are suspect.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe import __version__
from vitpe.inference.answers import Answers
from vitpe.inference.predictions import EvalInfo
from vitpe.inference.suspects import SuspectLabels
from vitpe.metrics.groups import GAPS, GroupScores
from vitpe.metrics.names import LOWER_IS_BETTER, METRICS
from vitpe.metrics.precision_recall import precision_recall
from vitpe.metrics.reliability import Reliability, reliability
from vitpe.metrics.scores import Mean, Scores
from vitpe.reporting.metric_formats import FORMATS, SUMMARY
from vitpe.reporting.page import render, shared_text
from vitpe.reporting.suspect_records import suspects_record
from vitpe.text import printable

MAX_SUSPECTS: Final = 100
"""Rows of suspect labels in the page; all are in their own file."""
_MAX_POINTS, _MIN_POINTS, _ALL_POINTS = 100, 12, 24_000
"""Of the curve of an attribute; of all curves together, so that a page of thousands of attributes stays small."""
_GROUP_RATES: Final = ("prevalence", "accuracy", "true_positive_rate", "false_positive_rate", "positive_rate")


def report_html(
    answers: Answers, scores: Scores, groups: GroupScores | None = None, suspects: SuspectLabels | None = None
) -> str:
    """The page. scores, groups, suspects: of these answers."""
    labels = answers.truth()
    bins = reliability(answers.probs, labels)
    num_points = max(_MIN_POINTS, min(_MAX_POINTS, _ALL_POINTS // len(scores.attributes)))
    data = {
        "facts": list(_facts(scores, answers.info)),
        "notes": [printable(note) for note in answers.notes],
        "metrics": [_metric(key) for key in ("threshold", *METRICS)],
        "means": [{"name": name, "metric": key} | _mean(scores.means[key]) for key, name in SUMMARY.items()],
        "num_images": scores.num_images,
        "num_resamples": scores.num_resamples,
        "attributes": [
            {
                "name": printable(name),
                "scores": {key: _rounded(scores[key][a]) for key in METRICS}
                | {"threshold": _rounded(scores.thresholds[a])},
                "curve": _curve(answers.probs[:, a], labels[:, a], num_points),
                "bins": _bins(bins, a),
            }
            for a, name in enumerate(scores.attributes)
        ],
        "reliability": {"bins": _bins(bins.pooled(), 0), "error": _rounded(bins.pooled().error()[0])},
        "groups": None if groups is None else _groups(groups),
        "suspects": None if suspects is None else _suspects(suspects),
    }
    return render(shared_text("report.html"), title(answers.info), data)


def title(info: EvalInfo) -> str:
    """What was scored, in a line."""
    if info.data_source == "answers":
        return info.checkpoint if info.split is None else f"{info.checkpoint}, {info.split}"
    return f"{info.checkpoint} on {info.images}"


def _facts(scores: Scores, info: EvalInfo) -> Iterator[tuple[str, str]]:
    """Name and value of what has to be known of the scores."""
    from_file = info.data_source == "answers"
    step = "" if info.step is None else f", step {info.step:,}"
    yield "answers" if from_file else "checkpoint", printable(info.checkpoint) + step
    if not from_file:
        yield "data", info.data_source
    if info.split is not None:
        yield "split", printable(info.split)
    yield "images", f"{scores.num_images:,}"
    yield "attributes", f"{len(scores.attributes):,}"
    yield "thresholds", info.thresholds
    if info.calibration is not None:
        yield "calibration", info.calibration
    if not from_file:
        yield "precision", info.precision
    if scores.num_resamples:
        yield "intervals", f"95 %, {scores.num_resamples:,} resamples of the images, seed {scores.seed}"
    packages = ["numpy"] if from_file else ["torch", "numpy"]
    yield "versions", ", ".join([f"vitpe {__version__}", *_versions(packages)])


def _versions(packages: Iterable[str]) -> Iterator[str]:
    for package in packages:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _metric(key: str) -> dict[str, Any]:
    shown = FORMATS[key]
    return {
        "key": key,
        "heading": shown.heading,
        "name": shown.name,
        "digits": shown.digits,
        "percent": shown.percent,
        "signed": shown.signed,
        "rising": key in LOWER_IS_BETTER,
    }


def _mean(mean: Mean) -> dict[str, Any]:
    ends = {"low": _rounded(mean.low), "high": _rounded(mean.high)}
    return {"value": _rounded(mean.value), **ends, "num_undefined": mean.num_undefined}


def _rounded(value: float, digits: int = 5) -> float | None:
    value = float(value)
    return None if math.isnan(value) else round(value, digits)


def _all_rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [_rounded(value, 4) for value in values.tolist()]


def _curve(probs: NDArray[np.float64], labels: NDArray[np.uint8], num_points: int) -> dict[str, list[int]]:
    """Thresholds, precision and recall in thousandths."""
    found = precision_recall(probs, labels, num_points)
    parts = {"thresholds": found.thresholds, "precision": found.precision, "recall": found.recall}
    return {name: np.rint(1000 * values).astype(int).tolist() for name, values in parts.items()}


def _bins(bins: Reliability, a: int) -> list[list[float]]:
    """Of each bin that is not empty: mean probability, share of labels, images."""
    filled = zip(bins.counts[a].tolist(), bins.sum_probs[a].tolist(), bins.sum_labels[a].tolist(), strict=True)
    return [[round(p / n, 3), round(y / n, 3), int(n)] for n, p, y in filled if n]


def _groups(groups: GroupScores) -> dict[str, Any]:
    def name(group: int) -> str | None:
        return printable(groups.groups[group]) if group >= 0 else None

    rates = (*_GROUP_RATES, "average_precision")
    of_gaps = {
        key: {"value": _all_rounded(gap.value), "low": _all_rounded(gap.low), "high": _all_rounded(gap.high)}
        for key, gap in groups.gaps.items()
    }
    return {
        "names": [name(g) for g in range(len(groups.groups))],
        "counts": groups.counts.tolist(),
        "num_outside": groups.num_outside,
        "min_count": groups.min_count,
        "by": [printable(part) for part in groups.grouping.by],
        "mean_accuracy": _mean(groups.mean_accuracy),
        "mean_reweighted": None if groups.mean_reweighted is None else _mean(groups.mean_reweighted),
        "train_shares": None if groups.train_shares is None else _all_rounded(groups.train_shares),
        "mean_gaps": {key: _mean(groups.mean_gaps[key]) for key in GAPS},
        "worst": [None if worst < 0 else worst for worst in groups.worst.tolist()],
        "gaps": of_gaps,
        "rates": {rate: [_all_rounded(row) for row in groups[rate]] for rate in rates},
        "ranked": [[int(seen) for seen in row] for row in groups.ranked["accuracy"]],
    }


def _suspects(suspects: SuspectLabels) -> Mapping[str, Any]:
    record = suspects_record(suspects)
    for row in record["attributes"]:
        row["attribute"] = printable(row["attribute"])
    for row in record["contradictions"]:
        row["attributes"] = list(map(printable, row["attributes"]))
    return record | {
        "num_images": len(suspects.by_model.found),
        "first": [
            {
                "image": printable(row.image),
                "attribute": printable(row.attribute),
                "label": row.label,
                "probability": _rounded(row.probability, 4),
                "contradicts": ", ".join(map(printable, row.contradicts)),
            }
            for row in suspects.rows[:MAX_SUSPECTS]
        ],
    }
