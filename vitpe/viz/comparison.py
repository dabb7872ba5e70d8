"""Two runs' histories beside each other: one animation and page, and how alike their position embeddings are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vitpe.errors import UsageError, VitpeError
from vitpe.files import write_atomic
from vitpe.model.facts import parse_grid
from vitpe.outputs import check_folder, refuse_foreign
from vitpe.text import printable
from vitpe.viz.animation import make_folder, png, write_animation
from vitpe.viz.colours import GIF_LEVELS, MUTED, ColourScale, Palette, Pixels, colour_range, make_palette
from vitpe.viz.frames import FramePainter, mirror_curve
from vitpe.viz.history import Checkpoint, evenly, load_history
from vitpe.viz.numbers import checkpoint_record, number_text, random_numbers
from vitpe.viz.options import VizOptions
from vitpe.viz.page_section import Side, history_section
from vitpe.viz.representation import ALIKENESS, Alikeness, alikeness, random_alikeness
from vitpe.viz.sheet import Sheet, shorten
from vitpe.viz.similarity import cosine_similarity
from vitpe.viz.visualize import VizResult

if TYPE_CHECKING:
    from rich.table import Table

NAME: Final = "pe_comparison"
PAGE: Final = f"{NAME}.html"
_TITLES: Final = {"map_correlation": "correlation of the maps", "cka": "CKA of the embeddings"}
HEAD: Final = 70
MARGIN: Final = 20


@dataclass(frozen=True)
class Pair:
    """The same moment of two runs."""

    first: Checkpoint
    second: Checkpoint


def compare_histories(first: Path, second: Path, options: VizOptions) -> VizResult:
    """Draw both histories in one animation on one scale, and write it into `options.out` as pe_comparison, with the
    last frame as a PNG. The records are of `pair_record`; with `html`, a section for the page is worked out, too.

    Compared are the steps that both runs have; where these are less than half of the shorter history, the same shares
    of both, which is noted. Raises VitpeError as `load_history` does, and for runs of different grids.
    """
    notes: list[str] = []
    grid = parse_grid(options.grid) if options.grid else None
    histories = [load_history([path], grid, notes.append) for path in (first, second)]
    grids = [history[0].grid_size for history in histories]
    if grids[0] != grids[1]:
        (rows, columns), (other_rows, other_columns) = grids
        raise VitpeError(
            f"{first} has {rows} x {columns} patches, {second} {other_rows} x {other_columns}",
            "compare runs of the same grid: only then each map has its like",
        )
    pairs = _pairs(histories[0], histories[1], notes)
    random = random_alikeness(len(pairs[0].first.embeddings), *(h[0].embeddings.shape[1] for h in histories))
    records = tuple(pair_record(pair, random) for pair in pairs)
    make_folder(options.out)
    target = options.out / NAME
    for suffix in (f".{options.format}", ".png", *([".html"] if options.html else [])):
        refuse_foreign(target.with_suffix(suffix))
    check_folder(options.out, options.out)

    sides = [
        _side(str(first), [pair.first for pair in pairs]),
        _side(str(second), [pair.second for pair in pairs]),
    ]
    everything = (cosine_similarity(each.embeddings) for side in sides for each in side.history)
    colours = ColourScale(*colour_range(everything), options.per_tile_scale)
    shown = evenly(len(pairs), options.max_frames)
    palette = make_palette(options.cmap, GIF_LEVELS if options.format == "gif" else 128)
    frames = _draw(sides, shown, records, colours, palette, options)
    written = []
    if len(frames) > 1:
        written.append(write_animation(frames, palette, options.timing, options.format, target))
        if len(shown) < len(pairs):
            notes.append(f"the animation shows {len(shown)} of {len(pairs)} steps, evenly spread")
    if options.stills:
        written.append(target.with_suffix(".png"))
        write_atomic(written[-1], png(palette.to_rgb(frames[-1])))
    section = None
    if options.html:
        section = history_section(sides, colours, options.cmap, options.frame_ms, _alike(records))
    return VizResult(tuple(written), records, tuple(notes), section)


def _side(name: str, history: Sequence[Checkpoint]) -> Side:
    random = random_numbers(history[0].embeddings.shape[1], history[0].grid_size, history[0].face)
    return Side(name, history, [checkpoint_record(each, random) for each in history])


def _alike(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the page says of how alike they are. records: see `pair_record`."""
    return {
        "numbers": [{"key": key, "name": _TITLES[key], "meaning": meaning} for key, meaning in ALIKENESS.items()],
        "values": [{key: record[key] for key in ALIKENESS} for record in records],
        "random": records[0]["random"],
    }


def pair_record(pair: Pair, random: Alikeness) -> dict[str, Any]:
    """JSON-able: {"step" (None where they differ), "first", "second": {"file", "step", "valid_accuracy"},
    "map_correlation", "cka", "random": {"map_correlation", "cka"}}.
    """
    both = {
        name: {"file": str(each.path), "step": each.step, "valid_accuracy": each.valid_accuracy}
        for name, each in (("first", pair.first), ("second", pair.second))
    }
    same = pair.first.step if pair.first.step == pair.second.step else None
    return {"step": same, **both, **alikeness(pair.first.embeddings, pair.second.embeddings), "random": random}


def _pairs(first: Sequence[Checkpoint], second: Sequence[Checkpoint], notes: list[str]) -> list[Pair]:
    by_step = {each.step: each for each in second if each.step is not None}
    shared = [Pair(each, by_step[each.step]) for each in first if each.step in by_step]
    count = min(len(first), len(second))
    if count == 1:
        if len(first) + len(second) > 2:
            notes.append("the last checkpoints are compared: one of the two has no history")
        return [Pair(first[-1], second[-1])]
    if 2 * len(shared) >= count:
        if len(shared) < max(len(first), len(second)):
            notes.append(f"compared at the {len(shared)} steps that both have")
        return shared
    common = f"only {len(shared)} of their steps" if shared else "no step"
    notes.append(f"the runs have {common} in common: compared at the same shares of their checkpoints")
    chosen = ([side[index] for index in evenly(len(side), count)] for side in (first, second))
    return [Pair(*both) for both in zip(*chosen, strict=True)]


def _draw(
    sides: Sequence[Side],
    shown: Sequence[int],
    records: Sequence[dict[str, Any]],
    colours: ColourScale,
    palette: Palette,
    options: VizOptions,
) -> Pixels:
    """(T, height, width): both runs' frames side by side, with a head over each pair. records: see `pair_record`."""
    painters = []
    for side in sides:
        curve = mirror_curve([side.records[index] for index in shown])
        history = [side.history[index] for index in shown]
        painters.append(FramePainter(history, curve, colours, palette, options.size))
    names = [side.name for side in sides]
    frames = []
    for number, record in enumerate(records[index] for index in shown):
        left, right = (painter.draw(number) for painter in painters)
        both = np.concatenate([left, right], axis=1)
        frames.append(np.concatenate([_head(names, record, left.shape[1], both.shape[1], palette), both]))
    return np.stack(frames)


def _head(names: Sequence[str], record: dict[str, Any], middle: int, width: int, palette: Palette) -> Pixels:
    """(HEAD, width): the runs' names, and how alike they are."""
    sheet = Sheet(width, HEAD)
    for letter, name, x in zip("AB", names, (0, middle), strict=True):
        sheet.text(
            x + MARGIN, 32, shorten(f"{letter}  {printable(name)}", 17, middle - 2 * MARGIN, "bold"), 17, weight="bold"
        )
    random = record["random"]
    text = "How alike: " + " · ".join(
        f"{title} {number_text(record[key])} (random {number_text(random[key])})" for key, title in _TITLES.items()
    )
    sheet.text(MARGIN, 57, shorten(text, 14, width - 2 * MARGIN), 14, MUTED)
    return palette.nearest(sheet.pixels())


def comparison_table(records: Sequence[dict[str, Any]], max_rows: int = 12) -> "Table":
    """One line a step, at most `max_rows`, and one for random embeddings. records: see `pair_record`."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Do two runs learn the same?",
        caption="random: two embeddings of the same shapes that learned nothing",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for title in ("step A", "step B", "valid A", "valid B", "correlation of maps", "CKA"):
        table.add_column(title, justify="right", no_wrap=True)
    for index in evenly(len(records), max_rows):
        record = records[index]
        sides = (record["first"], record["second"])
        steps = ["–" if side["step"] is None else f"{side['step']:,}" for side in sides]
        valid = ["–" if side["valid_accuracy"] is None else f"{side['valid_accuracy']:.1%}" for side in sides]
        table.add_row(*steps, *valid, *(_number(record[key]) for key in ("map_correlation", "cka")))
    table.add_section()
    random = records[0]["random"]
    table.add_row("random", "", "", "", *(_number(random[key]) for key in ("map_correlation", "cka")))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else number_text(value)


def check_comparison(paths: Sequence[Path], probe: bool) -> tuple[Path, Path]:
    """The two; UsageError for any other number of them, and for what a comparison has not."""
    if len(paths) != 2:
        raise UsageError(f"--compare with {len(paths)} path{'s' * (len(paths) != 1)}", "name two runs: --compare A B")
    if probe:
        raise UsageError("--compare has no --probe", "ask one run at a time: viz-pe RUN --probe")
    return paths[0], paths[1]
