"""A probe as a picture: what the model scores with its position embeddings as they are, and with each change."""

import math

from vitpe.inference.positions import CHANGES
from vitpe.inference.probe_result import PositionProbe
from vitpe.metrics.ablation import Ablations
from vitpe.reporting.metric_formats import FORMATS
from vitpe.reporting.probe_table import RANKED_BY, losers
from vitpe.text import printable
from vitpe.viz.colours import FAINT, INK, MUTED, Pixels
from vitpe.viz.maps import ticks
from vitpe.viz.sheet import Sheet, print_scale, shorten

MARGIN = 28
TOP = 142
ROW = 30
BAR = 15
LABELS = 128
NUMBERS = 62
BARS = 190
GAP = 34
NUM_LOSERS = len(CHANGES) + 1
WHOLE, CHANGED = "#1f7a8c", "#e8a15f"
PANELS = (("accuracy", "Accuracy"), ("average_precision", "Mean average precision"))


def probe_picture(probe: PositionProbe, scale: int | None = None) -> Pixels:
    """RGB pixels; `scale` 1 is for screens, None for print."""
    ablations = probe.ablations
    panel = LABELS + BARS + NUMBERS
    width = 2 * MARGIN + 3 * panel + 2 * GAP
    scale = scale or print_scale(width)
    sheet = Sheet(width, TOP + ROW * NUM_LOSERS + 92, scale)
    step = "" if probe.info.step is None else f", step {probe.info.step:,}"
    name = printable(f"{probe.info.checkpoint}{step}")
    sheet.text(MARGIN, 42, "Does position matter?", 24, weight="bold")
    about = f"{name} · {printable(probe.info.images)}, {ablations.num_images:,} images · lines: 95 % intervals"
    sheet.text(MARGIN, 68, shorten(about, 14.5, width - 2 * MARGIN), 14.5, MUTED)
    for number, (metric, title) in enumerate(PANELS):
        _draw_means(sheet, MARGIN + number * (panel + GAP), ablations, metric, title)
    _draw_losers(sheet, MARGIN + 2 * (panel + GAP), ablations)
    _draw_key(sheet, MARGIN, TOP + ROW * NUM_LOSERS + 74)
    return sheet.pixels()


def _draw_means(sheet: Sheet, x: float, ablations: Ablations, metric: str, title: str) -> None:
    """Bars from chance up: the score as it is, and below it with each change."""
    mean = ablations.means[metric]
    chance = ablations.means["majority_accuracy" if metric == "accuracy" else "prevalence"].value
    values = {name: ablations.parts[name].means[metric] for name in (change.name for change in CHANGES)}
    if math.isnan(mean.value) or math.isnan(chance):
        return
    low = 0.05 * math.floor(min(chance, *values.values()) / 0.05 - 1e-9)
    high = max(mean.high if not math.isnan(mean.high) else mean.value, *values.values())
    axis = _Axis(x + LABELS, BARS, low, high)
    _title(sheet, x, title, "per cent; dashed: chance")
    axis.draw(sheet, NUM_LOSERS, chance)
    _draw_row(
        sheet, axis, 0, "as they are", mean.value, (mean.low, mean.high), chance, WHOLE, f"{100 * mean.value:.1f}"
    )
    for row, (name, value) in enumerate(values.items(), 1):
        change = ablations.parts[name].mean_change[metric]
        ends = (mean.value + float(change.low), mean.value + float(change.high))
        text = FORMATS[metric].text(float(change.value), signed=True)
        _draw_row(sheet, axis, row, name, value, ends, chance, CHANGED, text)


def _draw_losers(sheet: Sheet, x: float, ablations: Ablations) -> None:
    """What the attributes that lose most lose, as bars to the left of nothing."""
    metric = "average_precision"
    changes = ablations.parts[RANKED_BY].per_attribute[metric]
    rows = losers(ablations, count=NUM_LOSERS)
    _title(sheet, x, "Who loses most", f"average precision when {RANKED_BY}, points")
    if not rows:
        return
    lows = [float(end) for a in rows for end in (changes.value[a], changes.low[a]) if not math.isnan(end)]
    axis = _Axis(x + LABELS, BARS, min(*lows, -0.01), max(0.0, max(float(changes.high[a]) for a in rows)))
    axis.draw(sheet, NUM_LOSERS, 0.0)
    for row, a in enumerate(rows):
        text = FORMATS[metric].text(float(changes.value[a]), signed=True)
        ends = (float(changes.low[a]), float(changes.high[a]))
        name = printable(ablations.attributes[a])
        _draw_row(sheet, axis, row, name, float(changes.value[a]), ends, 0.0, CHANGED, text)


class _Axis:
    """Values from low to high over `width` pixels from x on."""

    def __init__(self, x: float, width: float, low: float, high: float) -> None:
        self._x, self._width, self._low = x, width, low
        self._high = high if high - low > 1e-6 else low + 1e-6

    def at(self, value: float) -> float:
        """In pixels; what lies outside is at the end."""
        share = (value - self._low) / (self._high - self._low)
        return self._x + self._width * min(max(share, 0.0), 1.0)

    @property
    def end(self) -> float:
        """The right end."""
        return self._x + self._width

    def draw(self, sheet: Sheet, num_rows: int, dashed: float) -> None:
        """Lines at round per cents, and a dashed one."""
        top, bottom = TOP - 4, TOP + ROW * num_rows
        for value, label in ticks(100 * self._low, 100 * self._high, 4):
            sheet.line([self.at(value / 100)] * 2, [top, bottom], FAINT, 0.8)
            sheet.text(self.at(value / 100), bottom + 16, label, 10.5, MUTED, align="center")
        sheet.line([self.at(dashed)] * 2, [top, bottom], MUTED, 1.2, dashes=(3, 3))


def _draw_row(
    sheet: Sheet,
    axis: _Axis,
    row: int,
    name: str,
    value: float,
    ends: tuple[float, float],
    start: float,
    colour: str,
    text: str,
) -> None:
    """A bar from `start` to the value, its interval as a line, its name on the left and a number on the right."""
    y = TOP + row * ROW
    middle = y + BAR / 2
    left, right = sorted((axis.at(start), axis.at(value)))
    sheet.text(axis.at(-math.inf) - 10, middle + 4, shorten(name, 12.5, LABELS - 12), 12.5, align="right")
    sheet.rectangle(left, y, max(right - left, 0.8), BAR, fill=colour)
    if not any(map(math.isnan, ends)):
        low, high = map(axis.at, ends)
        sheet.line([low, high], [middle, middle], INK, 1.4, solid_capstyle="butt")
        for end in (low, high):
            sheet.line([end, end], [middle - 3.5, middle + 3.5], INK, 1.4, solid_capstyle="butt")
    sheet.text(axis.end + 12, middle + 4, text, 12.5, weight="bold")


def _title(sheet: Sheet, x: float, title: str, below: str) -> None:
    sheet.text(x, TOP - 34, title, 14.5, weight="bold")
    sheet.text(x, TOP - 16, below, 12, MUTED)


def _draw_key(sheet: Sheet, x: float, y: float) -> None:
    text = " · ".join(f"{change.name}: {change.meaning}" for change in CHANGES)
    sheet.paragraph(x, y - 24, sheet.width - 2 * MARGIN, text, 12, MUTED)
