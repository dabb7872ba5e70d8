"""Checkpoints → all pictures and numbers: the one entry point of viz/."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from vitpe.files import write_atomic
from vitpe.model.facts import parse_grid
from vitpe.outputs import check_folder, refuse_foreign
from vitpe.viz.animation import make_folder, png, write_animation
from vitpe.viz.colours import GIF_LEVELS, ColourScale, Palette, Pixels, colour_range, make_palette
from vitpe.viz.components import components_picture
from vitpe.viz.explained import explained_picture
from vitpe.viz.factors import factors_picture, row_and_column_parts
from vitpe.viz.frames import Curve, FramePainter, lay_out, mirror_curve
from vitpe.viz.history import Checkpoint, evenly, load_history
from vitpe.viz.numbers import checkpoint_record, random_numbers
from vitpe.viz.options import VizOptions
from vitpe.viz.page_section import Side, history_section
from vitpe.viz.rotary import rotary_picture, rotary_record
from vitpe.viz.sheet import print_scale
from vitpe.viz.similarity import Floats, cosine_similarity

ROTARY: Final = "pe_rope.png"
"""Another still, of checkpoints with learned rotary frequencies."""
FACTORS: Final = "pe_rows_columns.png"
"""Another, of embeddings that are sums of a row's and a column's."""
STILLS: Final = ("pe_final.png", "pe_explained.png", "pe_norms.png")


@dataclass(frozen=True)
class VizResult:
    """paths: what was written. records: one JSON-able dictionary a checkpoint, by step; see `checkpoint_record`.
    notes: what a user might wonder about, one line each. section: with `html`, what `run_page` shows of the history.
    """

    paths: tuple[Path, ...]
    records: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    section: dict[str, Any] | None = None


def visualize(paths: Sequence[Path], options: VizOptions | None = None) -> VizResult:
    """Draw the position embeddings of the checkpoints that `paths` name: run folders, folders of checkpoints, files.

    Writes into `options.out`, each file whole or not at all: pe_similarity.gif (or .mp4, .webp, a folder of PNGs) from
    two or more checkpoints; of the last one pe_final.png, pe_explained.png and pe_norms.png; pe_rope.png where rotary
    frequencies are learned, and pe_rows_columns.png where embeddings are sums of a row's and a column's.
    Raises VitpeError for checkpoints that cannot be read or do not belong together, and for places to write that fail.
    """
    options = options or VizOptions()
    notes: list[str] = []
    history = load_history(paths, parse_grid(options.grid) if options.grid else None, notes.append)
    first = history[0]
    random = random_numbers(first.embeddings.shape[1], first.grid_size, first.face)
    records = tuple(checkpoint_record(checkpoint, random) for checkpoint in history)
    low, high = colour_range(cosine_similarity(checkpoint.embeddings) for checkpoint in history)
    colours = ColourScale(low, high, options.per_tile_scale)
    palette = make_palette(options.cmap)
    rotary = _frequencies(history)
    for record, freqs in zip(records, rotary, strict=False):
        record["rope"] = rotary_record(freqs, rotary[0])
    more: dict[str, Callable[[], Pixels]] = {}
    if rotary:
        more[ROTARY] = lambda: rotary_picture(history[-1], rotary)
    if row_and_column_parts(history[-1]) is not None:
        more[FACTORS] = lambda: factors_picture(history, palette)
    make_folder(options.out)
    _check_outputs(options, tuple(more))

    written = []
    shown = evenly(len(history), options.max_frames)
    frames = [history[index] for index in shown]
    curve = mirror_curve([records[index] for index in shown])
    if len(frames) > 1:
        inks = make_palette(options.cmap, GIF_LEVELS) if options.format == "gif" else palette
        pixels = FramePainter(frames, curve, colours, inks, options.size).draw_all()
        target = options.out / "pe_similarity"
        written.append(write_animation(pixels, inks, options.timing, options.format, target))
        del pixels  # a hundred megabytes that the stills may need
        if len(frames) < len(history):
            notes.append(f"the animation shows {len(frames)} of {len(history)} checkpoints, evenly spread")
    else:
        notes.append("one checkpoint alone: still pictures only, no animation")
    if options.stills:
        written += _write_stills(_stills(frames, curve, colours, palette, options) | more, options.out)
    section = None
    if options.html:
        name = str(paths[0]) if len(paths) == 1 else ""
        section = history_section([Side(name, history, records)], colours, options.cmap, options.frame_ms)
    if history[-1].step and not any(checkpoint.embeddings.any() for checkpoint in history):
        notes.append("all position embeddings are zero, at the end of training, too: this model learns none")
    elif not records[-1]["defined"]:
        notes.append("similarity is undefined in the last checkpoint: embeddings start at zero")
    return VizResult(tuple(written), records, tuple(notes), section)


def _frequencies(history: Sequence[Checkpoint]) -> list[Floats]:
    """Of each checkpoint what rotary embeddings have learned; of none where not all have that, in one shape."""
    found = [freqs for checkpoint in history if (freqs := checkpoint.frequencies()) is not None]
    same = len(found) == len(history) and len({freqs.shape for freqs in found}) == 1
    return [freqs.astype(np.float64) for freqs in found] if same else []


def _check_outputs(options: VizOptions, more: tuple[str, ...]) -> None:
    """Refuse what others wrote under these names before anything is drawn."""
    names = [f"pe_similarity.{options.format}", *((*STILLS, *more) if options.stills else ())]
    for name in names:
        refuse_foreign(options.out / name)
    check_folder(options.out, options.out)


def still_picture(checkpoint: Checkpoint, name: str) -> Pixels:
    """One of STILLS, (height, width, 3), of a checkpoint alone."""
    options = VizOptions()
    random = random_numbers(checkpoint.embeddings.shape[1], checkpoint.grid_size, checkpoint.face)
    curve = mirror_curve([checkpoint_record(checkpoint, random)])
    colours = ColourScale(*colour_range([cosine_similarity(checkpoint.embeddings)]), options.per_tile_scale)
    return _stills([checkpoint], curve, colours, make_palette(options.cmap), options)[name]()


def _write_stills(pictures: Mapping[str, Callable[[], Pixels]], out: Path) -> list[Path]:
    for name, draw in pictures.items():  # one at a time, as each takes a hundred megabytes to draw
        write_atomic(out / name, png(draw()))
    return [out / name for name in pictures]


def _stills(
    frames: Sequence[Checkpoint], curve: Curve, colours: ColourScale, palette: Palette, options: VizOptions
) -> dict[str, Callable[[], Pixels]]:
    """What draws each of STILLS, of the last of the frames."""

    def final() -> Pixels:
        scale = print_scale(lay_out(frames[0], options.size).width)
        painter = FramePainter(frames, curve, colours, palette, options.size, scale)
        return palette.to_rgb(painter.draw(len(frames) - 1))

    draw = (
        final,
        lambda: explained_picture(frames[-1], colours, palette),
        lambda: components_picture(frames[-1], palette),
    )
    return dict(zip(STILLS, draw, strict=True))
