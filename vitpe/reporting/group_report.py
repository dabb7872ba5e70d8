"""Scores of groups as a picture: for each attribute a dot for each group's accuracy, the largest gap on top.

Drawn on a figure of its own, as in vitpe.reporting.report.
"""

import io
import math
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.groups import GroupScores
from vitpe.outputs import PNG_SOFTWARE
from vitpe.reporting.report import DPI, FAINT, INK, MUTED, percent, plain_axes, short
from vitpe.text import printable

_WIDTH: Final = 12.0
_ABOVE, _BELOW, _ROW, _LEGEND = 1.35, 0.75, 0.27, 0.24  # inches: title, axis, an attribute, a line of the legend
_LEFT, _RIGHT, _DOTS_WIDTH, _GAP_WIDTH = 2.2, 0.5, 5.9, 2.6
_NUM_PER_LINE: Final = 4
_MARKERS: Final = "osD^vPX*"


def group_report_png(groups: GroupScores, info: EvalInfo) -> bytes:
    """A PNG. Left, each group's accuracy, hollow where the group is not ranked; right, the gap with its interval."""
    gap = groups.gaps["accuracy"]
    order = [int(a) for a in np.argsort(-gap.value, kind="stable")]  # NaN sorts last
    lines = math.ceil(len(groups.groups) / _NUM_PER_LINE)
    above = _ABOVE + _LEGEND * lines + 0.35
    tall = max(_ROW * len(order), 0.8)
    height = above + tall + _BELOW
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")

    def box(left: float, width: float) -> Axes:
        return figure.add_axes((left / _WIDTH, _BELOW / height, width / _WIDTH, tall / height))

    dots, gaps = box(_LEFT, _DOTS_WIDTH), box(_WIDTH - _RIGHT - _GAP_WIDTH, _GAP_WIDTH)
    _title(figure, groups, info, height)
    _draw_dots(dots, groups, order)
    _draw_gaps(gaps, groups, order)
    handles, labels = dots.get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.3 / _WIDTH, 1 - _ABOVE / height),
        ncols=min(_NUM_PER_LINE, len(labels)),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handletextpad=0.3,
        borderpad=0,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    data = io.BytesIO()
    metadata = {
        "Software": PNG_SOFTWARE,
        "Title": printable(f"{info.checkpoint} on {info.split or info.data_source}, by group"),
    }
    figure.savefig(data, format="png", dpi=DPI, facecolor="white", metadata=metadata)
    return data.getvalue()


def _title(figure: Figure, groups: GroupScores, info: EvalInfo, height: float) -> None:
    def line(text: str, inches: float, size: float, color: str, weight: str = "normal") -> None:
        at = (0.35 / _WIDTH, 1 - inches / height)
        figure.text(*at, printable(text), size=size, color=color, weight=weight, parse_math=False)

    step = "" if info.step is None else f" · step {info.step:,}"
    line(f"{info.checkpoint}{step}", 0.42, 14, INK, "bold")
    line(
        f"{info.images} · {groups.counts.sum():,} images by {', '.join(groups.grouping.by)}"
        f" · thresholds {info.thresholds}",
        0.7,
        10,
        MUTED,
    )
    text = f"accuracy {percent(groups.mean_accuracy)}"
    if groups.mean_reweighted is not None:
        text += f"   reweighted by train's group shares {percent(groups.mean_reweighted)}"
    line(f"{text}   mean gap {percent(groups.mean_gaps['accuracy'])}", 1.02, 11, INK)


def _colours(count: int) -> list[str]:
    ramp = colormaps["viridis"]
    return [to_hex(ramp(place)) for place in np.linspace(0.1, 0.85, count)]


def _draw_dots(axes: Axes, groups: GroupScores, order: list[int]) -> None:
    rows = np.arange(len(order))
    accuracy = 100 * groups["accuracy"][:, order]
    ranked = groups.ranked["accuracy"][:, order]
    low, high = (reduce(np.where(ranked, accuracy, np.nan)) for reduce in (_nanmin, _nanmax))
    axes.hlines(rows, low, high, color=FAINT, linewidth=2.5, zorder=1)
    for g, colour in enumerate(_colours(len(groups.groups))):
        faces = [colour if seen else "white" for seen in ranked[g]]
        axes.scatter(
            accuracy[g],
            rows,
            s=34,
            marker=_MARKERS[g % len(_MARKERS)],
            facecolors=faces,
            edgecolors=colour,
            linewidths=1.2,
            zorder=3,
        )
        name = f"{short(groups.groups[g], 40)}  n {groups.counts[g]:,}"
        axes.scatter([], [], s=34, marker=_MARKERS[g % len(_MARKERS)], color=colour, label=name)
    axes.set_ylim(len(order) - 0.4, -0.6)
    known = accuracy[~np.isnan(accuracy)]
    start = 5 * math.floor((known.min() - 1) / 5) if known.size else 0
    axes.set_xlim(max(start, -2), 101.5)
    axes.set_xlabel(f"accuracy, per cent (hollow: fewer than {groups.min_count} images, not ranked)", size=9)
    axes.set_title("Each group's accuracy", loc="left", size=11, color=INK, weight="bold")
    plain_axes(axes)
    axes.set_yticks(rows, [short(groups.attributes[a]) for a in order], color=INK, parse_math=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6, zorder=0)


def _draw_gaps(axes: Axes, groups: GroupScores, order: list[int]) -> None:
    gap = groups.gaps["accuracy"]
    rows = np.arange(len(order))
    value, low, high = (100 * part[order] for part in (gap.value, gap.low, gap.high))
    sure = low > 0
    colours = np.where(sure, "#c8553d", MUTED)
    axes.hlines(rows, low, high, color=list(colours), linewidth=1.4, zorder=2)
    axes.scatter(value, rows, s=22, color=list(colours), zorder=3)
    axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel("points; red: the 95 % interval is above 0", size=9)
    axes.set_title("Gap, highest minus lowest", loc="left", size=11, color=INK, weight="bold")
    plain_axes(axes)
    axes.set_yticks([])
    axes.grid(axis="x", color=FAINT, linewidth=0.6, zorder=0)


def _nanmin(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values).all(axis=0), np.nan, np.where(np.isnan(values), np.inf, values).min(axis=0))


def _nanmax(values: np.ndarray) -> np.ndarray:
    return -_nanmin(-values)
