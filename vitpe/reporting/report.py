"""Scores as a picture: how far each attribute is above the majority answer, and how far its probabilities can be taken.

Drawn on a figure of its own, without pyplot: it needs no display and touches no state of a caller's matplotlib.
"""

import io
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.reliability import NUM_BINS, Reliability, reliability
from vitpe.metrics.scores import Mean, Scores
from vitpe.outputs import PNG_SOFTWARE
from vitpe.reporting.metric_formats import sort_order
from vitpe.text import printable

DPI = 120
WIDTH_INCHES = 14.0

INK, MUTED, FAINT = "#1d2433", "#667085", "#d5d9e0"
_GAIN, _LOSS = "#1f7a8c", "#c8553d"
_ABOVE, _BELOW = 1.6, 0.75  # inches kept for the title and for the axes' labels
_SIDE = 4.6
_ROW_INCHES = 0.235
_MAX_NAME = 24
_MIN_COUNT = 20  # images in a bin of one attribute for its share to be drawn


def report_png(probs: ArrayLike, labels: ArrayLike, scores: Scores, info: EvalInfo) -> bytes:
    """A PNG of `scores`, which were computed from these (n, A) probabilities and labels.

    Left, for each attribute a bar from the majority answer's accuracy to the model's, the largest lift on top.
    Right, how often an attribute was there by the probability given to it, and how often such probabilities were given.
    """
    num_attributes = len(scores.attributes)
    rows = max(_ROW_INCHES * num_attributes, 1.0)
    height = max(_ABOVE + rows, _ABOVE + _SIDE + 2.2) + _BELOW
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor="white")

    def box(left: float, bottom: float, width: float, tall: float) -> Axes:
        """Axes by inches, from the figure's lower left."""
        return figure.add_axes((left / WIDTH_INCHES, bottom / height, width / WIDTH_INCHES, tall / height))

    _title(figure, scores, info, height)
    _draw_lifts(box(2.1, height - _ABOVE - rows, 5.6, rows), scores)
    bins = reliability(probs, labels)
    _draw_reliability(box(8.9, height - _ABOVE - _SIDE, _SIDE, _SIDE), bins)
    room = height - _ABOVE - _SIDE - 0.6 - _BELOW
    tall = min(room, 3.2)
    _draw_counts(box(8.9, _BELOW + room - tall, _SIDE, tall), bins)
    data = io.BytesIO()
    metadata = {"Software": PNG_SOFTWARE, "Title": printable(f"{info.checkpoint} on {info.split or info.data_source}")}
    figure.savefig(data, format="png", dpi=DPI, facecolor="white", metadata=metadata)
    return data.getvalue()


def _title(figure: Figure, scores: Scores, info: EvalInfo, height: float) -> None:
    def line(text: str, inches: float, size: float, color: str, weight: str = "normal") -> None:
        figure.text(
            *(0.35 / WIDTH_INCHES, 1 - inches / height, printable(text)),
            size=size,
            color=color,
            weight=weight,
            parse_math=False,
        )

    means = scores.means
    step = "" if info.step is None else f" · step {info.step:,}"
    calibration = "" if info.calibration is None else f" · calibration {info.calibration}"
    line(f"{info.checkpoint}{step}", 0.45, 15, INK, "bold")
    line(
        f"{info.images} · {scores.num_images:,} images · {len(scores.attributes)} attributes"
        f" · thresholds {info.thresholds}{calibration}",
        0.75,
        10.5,
        MUTED,
    )
    line(
        f"accuracy {percent(means['accuracy'])}   majority answer {percent(means['majority_accuracy'])}   "
        f"mAP {percent(means['average_precision'])}   AUC {percent(means['roc_auc'])}   "
        f"F1 {percent(means['f1'])}",
        1.1,
        11.5,
        INK,
    )


def percent(mean: Mean) -> str:
    """ "86.9 % [86.1, 87.7]"."""
    if math.isnan(mean.value):
        return "–"
    interval = "" if math.isnan(mean.low) else f" [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"
    return f"{100 * mean.value:.1f} %{interval}"


def short(name: str, limit: int = _MAX_NAME) -> str:
    """A name that fits beside a picture."""
    name = printable(name)
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _draw_lifts(axes: Axes, scores: Scores) -> None:
    order = sort_order(scores, "lift")
    rows = np.arange(len(order))
    majority, accuracy = 100 * scores["majority_accuracy"][order], 100 * scores["accuracy"][order]
    lift = accuracy - majority
    colours = [_GAIN if value >= 0 else _LOSS for value in lift]
    start = min(50.0, 5 * math.floor(accuracy.min() / 5))
    axes.barh(rows, lift, left=majority, height=0.62, color=colours, zorder=2)
    axes.scatter(majority, rows, marker="|", s=70, color=INK, linewidths=1.2, zorder=3)
    for row, (left, right, value) in enumerate(zip(majority, accuracy, lift, strict=True)):
        axes.annotate(
            f"{value:+.1f}" if round(value, 1) else "0.0",
            (max(left, right), row),
            (5, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=_LOSS if round(value, 1) < 0 else MUTED,
        )
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(start, 104)
    axes.set_xticks([tick for tick in range(0, 101, 10) if tick >= start])
    axes.set_xlabel("accuracy, per cent: from the majority answer (line) to the model (end of the bar)", size=9)
    axes.set_title("Lift over the majority answer, in points", loc="left", size=11.5, color=INK, weight="bold")
    plain_axes(axes)
    axes.set_yticks(rows, [short(scores.attributes[a]) for a in order], color=INK, parse_math=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6, zorder=0)


def _draw_reliability(axes: Axes, bins: Reliability) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for counts, probs, present in zip(bins.counts, bins.sum_probs, bins.sum_labels, strict=True):
        seen = counts >= _MIN_COUNT
        axes.plot(probs[seen] / counts[seen], present[seen] / counts[seen], color=_GAIN, alpha=0.16, linewidth=0.9)
    pooled = bins.pooled()
    filled = pooled.counts[0] > 0
    counts = pooled.counts[0, filled]
    axes.plot(
        pooled.sum_probs[0, filled] / counts,
        pooled.sum_labels[0, filled] / counts,
        color=_GAIN,
        linewidth=2,
        marker="o",
        markersize=5,
        zorder=3,
    )
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.set_ylabel("how often it was there", size=9)
    axes.set_title("Reliability", loc="left", size=11.5, color=INK, weight="bold")
    axes.text(
        0.03,
        0.97,
        f"bold: all attributes together, calibration error {pooled.error()[0]:.3f}\n"
        f"thin: one attribute each, where a bin holds {_MIN_COUNT} images\n"
        "dashed: as often as said",
        va="top",
        size=8.5,
        color=MUTED,
        transform=axes.transAxes,
        linespacing=1.5,
    )
    plain_axes(axes)
    axes.grid(color=FAINT, linewidth=0.6, zorder=0)


def _draw_counts(axes: Axes, bins: Reliability) -> None:
    counts = bins.pooled().counts[0]
    axes.bar((np.arange(NUM_BINS) + 0.5) / NUM_BINS, counts / counts.sum() * 100, width=0.86 / NUM_BINS, color=_GAIN)
    axes.set_xlim(-0.01, 1.01)
    axes.set_xlabel("probability given", size=9)
    axes.set_ylabel("per cent of answers", size=9)
    plain_axes(axes)


def plain_axes(axes: Axes) -> None:
    """Only the axes' lower left lines, thin; quiet numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    axes.set_axisbelow(True)
