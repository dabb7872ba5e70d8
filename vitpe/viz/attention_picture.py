"""What a model's layers know of place, as a picture: linear probes, how far heads look, where position leads them."""

from collections.abc import Sequence

import numpy as np

from vitpe.inference.probe_result import LayerProbe, PositionProbe
from vitpe.metrics.position import Estimates
from vitpe.text import printable
from vitpe.viz.colours import ACCENT, FAINT, INK, MUTED, ColourScale, Palette, Pixels
from vitpe.viz.maps import best_cell, draw_bar, lay_out_tiles, ticks, tiles_extent
from vitpe.viz.sheet import Sheet, print_scale, shorten
from vitpe.viz.similarity import Floats

MARGIN = 28
WIDTH = 1120
TOP = 142
CHART_HEIGHT = 250
CHART_WIDTH = 440
AXIS = 46
MAPS = TOP + CHART_HEIGHT + 128
GAP = 26
MAX_HEADS = 12
MAX_COLUMNS = 4
MAX_MAP_HEIGHT = 760
ROW, COLUMN = "#1f7a8c", "#c8553d"


def attention_picture(probe: PositionProbe, palette: Palette, scale: int | None = None) -> Pixels:
    """RGB pixels; `scale` 1 is for screens, None for print."""
    scale = scale or print_scale(WIDTH)
    layers = probe.layers
    heads = layers.position_attention[:MAX_HEADS]
    num_columns = min(len(heads), MAX_COLUMNS)
    room = (WIDTH - 2 * MARGIN - (num_columns - 1) * GAP) // num_columns
    cell = best_cell(probe.grid_size, room, MAX_MAP_HEIGHT)
    while cell > 1 and tiles_extent(probe.grid_size[1], cell) > room:
        cell -= 1
    tile = tiles_extent(probe.grid_size[0], cell) + 44
    num_rows = -(-len(heads) // num_columns)
    width = max(WIDTH, 2 * MARGIN + num_columns * (tiles_extent(probe.grid_size[1], cell) + GAP))
    sheet = Sheet(width, MAPS + num_rows * tile + 76, scale)
    step = "" if probe.info.step is None else f", step {probe.info.step:,}"
    sheet.text(MARGIN, 42, "Where the model keeps position", 24, weight="bold")
    about = printable(f"{probe.info.checkpoint}{step} · {probe.info.images}")
    sheet.text(MARGIN, 68, shorten(about, 14.5, width - 2 * MARGIN), 14.5, MUTED)
    _draw_places(sheet, layers, probe.grid_size)
    _draw_distances(sheet, WIDTH - MARGIN - CHART_WIDTH, layers)

    sheet.text(MARGIN, MAPS - 52, "Attention from position alone", 14.5, weight="bold")
    text = (
        "The first block's attention where every patch has the same content, the mean of all, and only the embeddings"
        " differ. Each small map stands where the patch that looks stands."
    )
    sheet.text(MARGIN, MAPS - 34, shorten(text, 12, width - 2 * MARGIN), 12, MUTED)
    times = heads * heads.shape[-1]
    high = max(float(np.quantile(times, 0.995)), 1.0 + 1e-6)
    tiles = lay_out_tiles(probe.grid_size, cell, scale)
    for number, values in enumerate(times):
        row, column = divmod(number, num_columns)
        x, y = MARGIN + column * (tiles_extent(probe.grid_size[1], cell) + GAP), MAPS + row * tile
        sheet.text(x, y - 6, f"head {number + 1}", 12, weight="bold")
        levels = ColourScale(0.0, high).levels(values, palette.num_levels)
        sheet.picture(palette.to_rgb(tiles.draw(levels, palette)), x, y)
    bottom = MAPS + num_rows * tile
    draw_bar(sheet, MARGIN, bottom, 240, 12, palette, (0.0, high))
    more = f"; the first {MAX_HEADS} of {len(layers.position_attention)} heads" * (
        len(layers.position_attention) > MAX_HEADS
    )
    sheet.text(MARGIN + 262, bottom + 11, f"times what each patch would get if all were alike{more}", 12, MUTED)
    return sheet.pixels()


class _Chart:
    """Layers from left to right; values from 0 up."""

    def __init__(self, sheet: Sheet, x: float, layers: Sequence[int], high: float) -> None:
        self._sheet, self._x, self._layers, self._high = sheet, x + AXIS, list(layers), high
        self._width = CHART_WIDTH - AXIS

    def place(self, layer: int, value: float) -> tuple[float, float]:
        """In pixels."""
        share = (layer - self._layers[0]) / max(len(self._layers) - 1, 1)
        inset = 14
        return self._x + inset + share * (self._width - 2 * inset), TOP + CHART_HEIGHT * (1 - value / self._high)

    def draw(self, title: str, below: str, factor: float, names: Sequence[str]) -> None:
        """Title, lines at round values of `factor` times the value, and the layers' names."""
        sheet = self._sheet
        sheet.text(self._x - AXIS, TOP - 34, title, 14.5, weight="bold")
        sheet.text(self._x - AXIS, TOP - 16, below, 12, MUTED)
        for value, label in ticks(0, factor * self._high, 5):
            y = self.place(0, value / factor)[1]
            sheet.line([self._x, self._x + self._width], [y, y], FAINT, 0.8)
            sheet.text(self._x - 8, y + 4, label, 10.5, MUTED, align="right")
        every = -(-len(names) // 14)
        for layer, name in list(zip(self._layers, names, strict=True))[::every]:
            x, _ = self.place(layer, 0)
            sheet.text(x, TOP + CHART_HEIGHT + 18, name, 10.5, MUTED, align="center")

    def level(self, value: float, text: str) -> None:
        """A dashed line from side to side."""
        y = self.place(0, value)[1]
        self._sheet.line([self._x, self._x + self._width], [y, y], MUTED, 1.2, dashes=(3, 3))
        self._sheet.text(self._x + self._width, y - 5, text, 10.5, MUTED, align="right")

    def curve(self, estimates: tuple[Floats, Floats, Floats], colour: str, dashed: bool) -> None:
        """A line through the values, with their intervals."""
        style = {"dashes": (2, 2)} if dashed else {}
        points = [self.place(layer, value) for layer, value in zip(self._layers, estimates[0].tolist(), strict=True)]
        self._sheet.line([x for x, _ in points], [y for _, y in points], colour, 2, **style)
        for layer, (x, y), low, high in zip(
            self._layers, points, *(end.tolist() for end in estimates[1:]), strict=True
        ):
            self._sheet.line([x, x], [self.place(layer, end)[1] for end in (low, high)], colour, 1.4)
            self._sheet.ellipse(x, y, 6, 6, colour, 1, fill=colour)


def _draw_places(sheet: Sheet, layers: LayerProbe, grid_size: tuple[int, int]) -> None:
    numbers = range(len(layers.places.value))
    chart = _Chart(sheet, MARGIN, numbers, 1.0)
    below = f"per cent of tokens whose row and column a linear map tells, {layers.num_held_out} images held out"
    names = ["input", *(f"block {number}" if len(numbers) < 9 else str(number) for number in numbers[1:])]
    chart.draw("Place in the tokens", below, 100, names)
    for count, text in ((max(grid_size), ""), (min(grid_size), "chance")):
        chart.level(1 / count, text)
    for estimates, dashed in ((layers.places_without, True), (layers.places, False)):
        for at, colour in enumerate((ROW, COLUMN)):
            chart.curve(_axis(estimates, at), colour, dashed)
    x, y = float(MARGIN + AXIS), TOP + CHART_HEIGHT + 42
    for text, colour, style in (
        ("row", ROW, {}),
        ("column", COLUMN, {}),
        ("row, zeroed", ROW, {"dashes": (2, 2)}),
        ("column, zeroed", COLUMN, {"dashes": (2, 2)}),
    ):
        sheet.line([x, x + 22], [y - 4, y - 4], colour, 2, **style)
        sheet.text(x + 28, y, text, 11.5)
        x += 48 + 6.8 * len(text)


def _axis(estimates: Estimates, at: int) -> tuple[Floats, Floats, Floats]:
    return estimates.value[:, at], estimates.low[:, at], estimates.high[:, at]


def _draw_distances(sheet: Sheet, x: float, layers: LayerProbe) -> None:
    """A dot for each head of each block, as in arXiv:2010.11929, Figure 7, right."""
    values = layers.distances.value
    numbers = range(1, 1 + len(values))
    chart = _Chart(sheet, x, numbers, 1.15 * max(float(layers.distances.high.max()), layers.uniform_distance))
    names = [f"block {number}" if len(numbers) < 9 else str(number) for number in numbers]
    chart.draw("How far attention looks", "mean distance in patches, a dot for each head", 1, names)
    chart.level(layers.uniform_distance, "looking at all alike")
    for number, heads in zip(numbers, values, strict=True):
        for head, value in enumerate(heads.tolist()):
            px, py = chart.place(number, value)
            ends = [layers.distances.low[number - 1, head], layers.distances.high[number - 1, head]]
            sheet.line([px, px], [chart.place(number, float(end))[1] for end in ends], INK, 1.2)
            sheet.ellipse(px, py, 8, 8, ACCENT, 1, fill=ACCENT)
