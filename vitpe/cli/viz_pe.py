"""`vitpe viz-pe`: a run's history → pictures and numbers of its position embeddings."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitpe.cli.completion import COLOUR_MAPS
from vitpe.cli.options import NEWEST, Device, Labels, choose_format, data_option, in_range, one_of
from vitpe.cli.results import write_result
from vitpe.errors import UsageError
from vitpe.fields import Bounds
from vitpe.viz.options import ANIMATION_FORMATS, VizOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vitpe.viz.visualize import VizResult

NUM_PROBE_IMAGES, NUM_HISTORY_IMAGES = 2048, 512
"""To probe one checkpoint on, and each of several."""
_NUMBERS_FORMATS = ("table", "json", "jsonl")
EXAMPLES = (
    "vitpe viz-pe\nvitpe viz-pe runs/ckpts --html --out pictures\n"
    "vitpe viz-pe vit_base.safetensors --grid 14x14 --format json\n"
    "vitpe viz-pe runs --probe --out pictures\nvitpe viz-pe runs/a runs/b --compare --out pictures"
)


def viz_pe(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run folders, folders of runs or of checkpoints, or safetensors files.", show_default=NEWEST
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.", rich_help_panel="Result")] = VizOptions.out,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Animation: gif, mp4, webp, png-frames; numbers: table, json, jsonl. May be given twice.",
            show_default="gif; table on a terminal, else json",
            autocompletion=lambda: [*ANIMATION_FORMATS, *_NUMBERS_FORMATS],
        ),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Also write an interactive page (one HTML file).")
    ] = VizOptions.html,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Compare two runs: one animation, and how alike they are at each step."),
    ] = False,
    stills: Annotated[bool, typer.Option(help="Also write still pictures at print quality.")] = VizOptions.stills,
    size: Annotated[
        int, typer.Option(help="Width of the animation in pixels.", rich_help_panel="Look")
    ] = VizOptions.size,
    frame_ms: Annotated[int, typer.Option(help="Duration of a frame in milliseconds.")] = VizOptions.frame_ms,
    cmap: Annotated[
        str, typer.Option(help="Colour map of matplotlib.", autocompletion=lambda: list(COLOUR_MAPS))
    ] = VizOptions.cmap,
    per_tile_scale: Annotated[
        bool,
        typer.Option("--per-tile-scale", help="Give each map its own colour scale: more contrast, but not comparable."),
    ] = VizOptions.per_tile_scale,
    grid: Annotated[
        str | None, typer.Option(metavar="ROWSxCOLUMNS", help="Grid of patches, for files that do not hold it.")
    ] = VizOptions.grid,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Also run the model without position, in several ways: what does it lose?",
            rich_help_panel="Does position matter",
        ),
    ] = False,
    probe_checkpoints: Annotated[
        int | None,
        typer.Option(help="Number of checkpoints of the history to probe, evenly spread.", show_default="the best"),
    ] = None,
    probe_images: Annotated[
        int | None,
        typer.Option(
            help="Number of images of valid to probe on.",
            show_default=f"{NUM_PROBE_IMAGES:,}; {NUM_HISTORY_IMAGES} along the history",
        ),
    ] = None,
    data: Annotated[str | None, data_option("what the model was trained on", panel=None)] = None,
    labels: Labels = None,
    device: Device = None,
) -> None:
    """Draw what the position embeddings learned. An animation over the run's history, still pictures, and a table."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products, which threads on a busy machine only delay
    from vitpe.cli import console, probe_output, run_output
    from vitpe.reporting.probe_section import probe_section
    from vitpe.runs.find import default_run
    from vitpe.viz.numbers import numbers_legend, numbers_table
    from vitpe.viz.visualize import visualize

    for name in formats or []:
        one_of("--format", name, (*ANIMATION_FORMATS, *_NUMBERS_FORMATS))
    in_range("--probe-checkpoints", probe_checkpoints, Bounds(1, 1_000))
    in_range("--probe-images", probe_images, Bounds(1, 10**9))
    given = {
        "--probe-checkpoints": probe_checkpoints,
        "--probe-images": probe_images,
        "--data": data,
        "--labels": labels,
        "--device": device,
    }
    if not probe and (needless := [name for name, value in given.items() if value is not None]):
        raise UsageError(f"{needless[0]} without --probe", "only --probe runs the model")
    kind = choose_format(next((name for name in formats or [] if name in _NUMBERS_FORMATS), None), _NUMBERS_FORMATS)
    movie = next((name for name in ANIMATION_FORMATS if name in (formats or [])), VizOptions.format)
    options = VizOptions(
        out, movie, frame_ms, size=size, cmap=cmap, per_tile_scale=per_tile_scale, grid=grid, html=html, stills=stills
    )
    if compare:
        from vitpe.viz.comparison import PAGE, check_comparison, compare_histories, comparison_table

        both = check_comparison(paths or [], probe)
        result = compare_histories(*both, options)
        if result.section is not None:
            run_output.write_page(out / PAGE, run_output.run_records(both), result.section)
            console.show_note(f"wrote {out / PAGE}")
        _show(result, kind, comparison_table)
        return
    planned = None
    shown = paths or [default_run("history", console.show_note)]
    if probe:
        planned = probe_output.plan_probe(shown, data, labels, probe_checkpoints or 1, out)
    run_output.check_outputs(options)
    result = visualize(shown, options)
    runs = run_output.run_records(shown)
    for path in run_output.draw_curves(runs, options):
        console.show_note(f"wrote {path}")
    probes, probed = [], None
    if planned is not None:
        enough = NUM_PROBE_IMAGES if len(planned.checkpoints) == 1 else NUM_HISTORY_IMAGES
        probes = probe_output.run_probe(planned, probe_images or enough, device)
        probe_output.add_records(result.records, probes)
        probe_output.draw_probe(probes, out, cmap)
        probed = probe_section(probes)
        probe_output.keep_probe(planned, probed)
    if html and result.section is not None:
        if probed is None and len(runs) == 1:
            probed = probe_output.kept_probe(Path(runs[0].name), result.section["grid_size"])
        run_output.write_page(out / run_output.PAGE, runs, result.section, probed)
        console.show_note(f"wrote {out / run_output.PAGE}")
    _show(result, kind, numbers_table, numbers_legend)
    if kind == "table" and probes:
        probe_output.show_probe(probes)


def _show(result: "VizResult", kind: str, *tables: "Callable[[Sequence[dict[str, Any]]], RenderableType]") -> None:
    """What was written, and the numbers."""
    from vitpe.cli import console

    for note in (*result.notes, *(f"wrote {path}" for path in result.paths)):
        console.show_note(note)
    if kind == "table":
        for table in tables:
            console.show_table(table(result.records))
    elif kind == "json":
        write_result(json.dumps(result.records, indent=2) + "\n")
    else:
        for record in result.records:
            write_result(json.dumps(record) + "\n")
