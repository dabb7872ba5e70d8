"""The curves of runs as a picture, for those without a browser. Drawn on a figure of its own, without pyplot."""

import io
from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from vitpe.outputs import PNG_SOFTWARE
from vitpe.reporting.report import INK, MUTED
from vitpe.reporting.run_page import CURVES, RunRecord, curve_of
from vitpe.text import printable

DPI: Final = 140
_COLOURS: Final = ("#1f7a8c", "#d81b57", "#b07d12", "#7657c9")


def curves_png(runs: Sequence[RunRecord]) -> bytes:
    """Loss, accuracy and average precision on valid, learning rate and images per second, by step; a colour a run."""
    figure = Figure(figsize=(11, 6.2), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for axis, curve in zip(axes, CURVES, strict=False):
        for run, colour in zip(runs, _COLOURS, strict=False):
            points = curve_of(run.rows, curve.key)
            scale = 100 if curve.percent else 1
            marker = "o" if len(points) <= 20 else None
            axis.plot([s for s, _ in points], [scale * v for _, v in points], color=colour, marker=marker, ms=3.5)
        axis.set_title(f"{curve.name}, %" if curve.percent else curve.name, fontsize=10, color=INK, loc="left")
        axis.tick_params(labelsize=8, colors=MUTED)
        axis.grid(color="#e3e6eb", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if curve.zero:
            axis.set_ylim(bottom=0)
    axes[-1].axis("off")
    for number, (run, colour) in enumerate(zip(runs, _COLOURS, strict=False)):
        text = axes[-1].text(0, 0.9 - 0.12 * number, printable(run.name), fontsize=10, color=colour)
        text.set_parse_math(False)
    axes[-1].text(0, 0.9 - 0.12 * len(runs), "by step", fontsize=9, color=MUTED)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI, facecolor="white", metadata={"Software": PNG_SOFTWARE})
    return data.getvalue()
