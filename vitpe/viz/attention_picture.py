"""What a model's layers know of place, as a picture: linear probes, how far heads look, where position leads them."""

import numpy as np

from vitpe.inference.probe_result import LayerProbe, PositionProbe
from vitpe.metrics.position import Estimates
from vitpe.text import printable
from vitpe.viz.chart import Chart
from vitpe.viz.colours import ACCENT, INK, MUTED, ColourScale, Palette, Pixels
from vitpe.viz.maps import best_cell, draw_bar, lay_out_tiles, tiles_extent
from vitpe.viz.sheet import Sheet, print_scale, shorten
from vitpe.viz.similarity import Floats

MARGIN = 28
WIDTH = 1120
TOP = 142
CHART_HEIGHT = 250
CHART_WIDTH = 440
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
        "The first block's attention where every patch has the same content, the mean of all, and only its place"
        " differs. Each small map stands where the patch that looks stands."
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


def _draw_places(sheet: Sheet, layers: LayerProbe, grid_size: tuple[int, int]) -> None:
    numbers = range(len(layers.places.value))
    chart = Chart(sheet, MARGIN, TOP, CHART_WIDTH, CHART_HEIGHT, (0, numbers[-1]), (0, 1))
    held_out = f"{layers.num_held_out} images held out"
    chart.title("Place in the tokens", f"per cent of tokens whose row and column a linear map tells, {held_out}")
    chart.lines(100)
    chart.names([(0, "input"), *_block_names(numbers[1:])])
    for count, text in ((max(grid_size), ""), (min(grid_size), "chance")):
        chart.level(1 / count, text)
    names: dict[str, tuple[str, bool]] = {}
    for estimates, dashed in ((layers.places_without, True), (layers.places, False)):
        for at, (name, colour) in enumerate((("row", ROW), ("column", COLUMN))):
            chart.curve(numbers, _axis(estimates, at), colour, dashed)
            names[f"{name}, zeroed" if dashed else name] = (colour, dashed)
    chart.legend({name: names[name] for name in ("row", "column", "row, zeroed", "column, zeroed")})


def _block_names(numbers: range) -> list[tuple[float, str]]:
    return [(number, f"block {number}" if len(numbers) < 8 else str(number)) for number in numbers]


def _axis(estimates: Estimates, at: int) -> tuple[Floats, Floats, Floats]:
    return estimates.value[:, at], estimates.low[:, at], estimates.high[:, at]


def _draw_distances(sheet: Sheet, x: float, layers: LayerProbe) -> None:
    """A dot for each head of each block, as in arXiv:2010.11929, Figure 7, right."""
    values = layers.distances.value
    numbers = range(1, 1 + len(values))
    high = 1.15 * max(float(layers.distances.high.max()), layers.uniform_distance)
    chart = Chart(sheet, x, TOP, CHART_WIDTH, CHART_HEIGHT, (1, numbers[-1]), (0, high))
    chart.title("How far attention looks", "mean distance in patches, a dot for each head")
    chart.lines()
    chart.names(_block_names(numbers))
    chart.level(layers.uniform_distance, "looking at all alike")
    for number, heads in zip(numbers, values, strict=True):
        for head, value in enumerate(heads.tolist()):
            px, py = chart.place(number, value)
            ends = [layers.distances.low[number - 1, head], layers.distances.high[number - 1, head]]
            sheet.line([px, px], [chart.place(number, float(end))[1] for end in ends], INK, 1.2)
            sheet.ellipse(px, py, 8, 8, ACCENT, 1, fill=ACCENT)
