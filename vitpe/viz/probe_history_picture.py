"""When a model comes to rely on position: what it loses without, and how far it looks, over the steps of training."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from vitpe.inference.positions import CHANGES
from vitpe.inference.probe_result import PositionProbe
from vitpe.text import printable
from vitpe.viz.chart import Chart
from vitpe.viz.colours import MUTED, Pixels
from vitpe.viz.maps import ticks
from vitpe.viz.sheet import Sheet, print_scale, shorten
from vitpe.viz.similarity import Floats

MARGIN: Final = 28
TOP: Final = 142
WIDTH: Final = 410
HEIGHT: Final = 300
GAP: Final = 34
COLOURS: Final = {
    "zeroed": "#c8553d",
    "shuffled": "#8e2f5c",
    "rows only": "#1f7a8c",
    "columns only": "#e8a15f",
    "mirrored": "#7a8290",
}
"""The changes that are drawn: the others are nearly the same as one of these, and are in the table."""
FIRST_BLOCK, LAST_BLOCK = (0xA9, 0xD3, 0xC2), (0x12, 0x3B, 0x5D)


def probe_history_picture(probes: Sequence[PositionProbe], scale: int | None = None) -> Pixels:
    """Two or more probes of one run, by step, on the same images.

    RGB pixels; `scale` 1 is for screens, None for print.
    """
    steps = [probe.info.step or 0 for probe in probes]
    width = 2 * MARGIN + 3 * WIDTH + 2 * GAP
    depth = len(probes[0].layers.distances.value)
    legend = 18 * max(2, -(-depth // 4))
    sheet = Sheet(width, TOP + HEIGHT + 48 + legend, scale or print_scale(width))
    last = probes[-1]
    sheet.text(MARGIN, 42, "When the model comes to rely on position", 24, weight="bold")
    images = f"{printable(last.info.images)}, {last.ablations.num_images:,} images"
    before = f"{printable(str(last.info.checkpoint))} and {len(probes) - 1} before it"
    about = f"{before} · {images} · lines: 95 % intervals"
    sheet.text(MARGIN, 68, shorten(about, 14.5, width - 2 * MARGIN), 14.5, MUTED)
    metrics = (("accuracy", "Accuracy"), ("average_precision", "Mean average precision"))
    for number, (metric, title) in enumerate(metrics):
        _draw_losses(sheet, MARGIN + number * (WIDTH + GAP), probes, steps, metric, title)
    _draw_distances(sheet, MARGIN + 2 * (WIDTH + GAP), probes, steps)
    return sheet.pixels()


def _draw_losses(
    sheet: Sheet, x: float, probes: Sequence[PositionProbe], steps: Sequence[int], metric: str, title: str
) -> None:
    curves: dict[str, tuple[Floats, Floats, Floats]] = {}
    for change in CHANGES:
        if change.name in COLOURS:
            found = [probe.ablations.parts[change.name].mean_change[metric] for probe in probes]
            value, low, high = (np.array(each) for each in zip(*((c.value, c.low, c.high) for c in found), strict=True))
            # Where too few images have both answers there is no interval.
            curves[change.name] = (value, np.where(np.isnan(low), value, low), np.where(np.isnan(high), value, high))
    values = np.nan_to_num(np.array(list(curves.values())))
    room = max(0.02 * float(np.ptp(values)), 0.001)
    up = (min(float(values.min()), 0) - room, max(float(values.max()), 0) + room)
    chart = Chart(sheet, x, TOP, WIDTH, HEIGHT, (steps[0], steps[-1]), up)
    chart.title(f"{title}: what is lost", "points, by the position embeddings' change")
    chart.lines(100)
    chart.names(_step_names(steps))
    for name, curve in curves.items():
        chart.curve(steps, curve, COLOURS[name])
    chart.level(0)
    chart.legend({name: (colour, False) for name, colour in COLOURS.items()})


def _draw_distances(sheet: Sheet, x: float, probes: Sequence[PositionProbe], steps: Sequence[int]) -> None:
    """A line for each block, the mean of its heads, with lines from the nearest to the farthest."""
    distances = np.array([probe.layers.distances.value for probe in probes])  # (steps, blocks, heads)
    uniform = probes[-1].layers.uniform_distance
    low, high = min(float(distances.min()), uniform), max(float(distances.max()), uniform)
    room = max(0.1 * (high - low), 0.05)
    chart = Chart(sheet, x, TOP, WIDTH, HEIGHT, (steps[0], steps[-1]), (low - room, high + room))
    chart.title("How far attention looks", "patches; lines: nearest and farthest head; dashed: all alike")
    chart.lines()
    chart.names(_step_names(steps))
    chart.level(uniform)
    depth = distances.shape[1]
    shares = np.linspace(0, 1, depth) if depth > 1 else np.ones(1)
    inks = [_mixed(float(share)) for share in shares]
    for block, colour in enumerate(inks):
        heads = distances[:, block]
        chart.curve(steps, (heads.mean(axis=1), heads.min(axis=1), heads.max(axis=1)), colour)
    names = [f"block {block}" if depth < 8 or block == 1 else str(block) for block in range(1, depth + 1)]
    chart.legend({name: (colour, False) for name, colour in zip(names, inks, strict=True)})


def _step_names(steps: Sequence[int]) -> list[tuple[float, str]]:
    if steps[0] == steps[-1]:
        return [(steps[0], f"step {steps[0]:,}")]
    found = [value for value, _ in ticks(steps[0], steps[-1], 5) if value == round(value)]
    return [(value, f"step {value:,.0f}" if number == 0 else f"{value:,.0f}") for number, value in enumerate(found)]


def _mixed(share: float) -> str:
    mixed = (round(a + (b - a) * share) for a, b in zip(FIRST_BLOCK, LAST_BLOCK, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)
