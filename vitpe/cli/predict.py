"""`vitpe predict`: images → attributes."""

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from vitpe.cli.completion import attributes_of_model
from vitpe.cli.options import (
    CHECKPOINT,
    NEWEST,
    Device,
    MapMethod,
    Precision,
    choose_format,
    format_option,
    in_range,
)
from vitpe.cli.results import write_result
from vitpe.config import DRAWN_FACES
from vitpe.errors import UsageError
from vitpe.fields import Bounds
from vitpe.inference.inputs import PredictInputs
from vitpe.outputs import check_output

EXAMPLES = (
    "vitpe predict face.jpg\nvitpe predict face.jpg --maps maps --attributes Smiling,Eyeglasses\n"
    "vitpe predict photos --format csv > photos.csv\nvitpe predict photos --sheet photos.html\n"
    "find photos -name '*.jpg' -print0 | vitpe predict -0 -"
)


def predict(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Images, folders, patterns, parquet or tar files; '-' reads names from stdin."),
    ] = None,
    null: Annotated[
        bool,
        typer.Option(
            "-0", "--null", help="Names on stdin are separated by NUL (find -print0).", rich_help_panel="Images"
        ),
    ] = False,
    stdin_image: Annotated[bool, typer.Option("--stdin-image", help="Read one image from stdin.")] = False,
    align: Annotated[bool, typer.Option("--align", help="Find the face and align it as CelebA's images are.")] = False,
    faces: Annotated[
        Literal["largest", "all"], typer.Option(help="With --align: which of several faces to answer for.")
    ] = "largest",
    save_crops: Annotated[Path | None, typer.Option(help="Folder for the images as the model sees them (PNG).")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help=CHECKPOINT, show_default=NEWEST, rich_help_panel="Model")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Probability (0 to 1) at which an attribute counts as present.", show_default="the checkpoint's"
        ),
    ] = None,
    device: Device = None,
    precision: Precision = "fp32",
    output: Annotated[str | None, format_option("table", "jsonl", "json", "csv")] = None,
    maps: Annotated[Path | None, typer.Option(help="Folder for pictures of where the answers come from (PNG).")] = None,
    map_method: MapMethod = "occlusion",
    sheet: Annotated[
        Path | None, typer.Option(help="Also write a contact sheet, images with their answers: .html, .png.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Show only the K most probable attributes.")] = None,
    attributes: Annotated[
        str | None,
        typer.Option(help="Show only these attributes: Smiling,Male.", autocompletion=attributes_of_model),
    ] = None,
) -> None:
    """Predict the attributes of images."""
    kind = choose_format(output, ("table", "jsonl", "json", "csv"))
    in_range("--top", top, Bounds(1, 100_000))
    in_range("--threshold", threshold, Bounds(0, 1))
    if maps is None and map_method != "occlusion":
        raise UsageError(f"--map-method {map_method} without --maps", "name a folder for the pictures: --maps FOLDER")
    if faces != "largest" and not align:
        raise UsageError(f"--faces {faces} without --align", "add --align, which looks for faces")
    if sheet is not None:
        check_output(sheet, (".png", ".html"), "--sheet")
    pictures = [str(path) for path in (save_crops, maps, sheet) if path is not None]
    inputs = PredictInputs(files or [], null, stdin_image, pictures)

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each core has an image of its own, and no two wait for another
    from vitpe.data.images import Remarks
    from vitpe.inference import predict
    from vitpe.inference.maps import NUM_MAPS, MapOptions
    from vitpe.reporting import records
    from vitpe.runs.find import default_run, weights_file
    from vitpe.runs.weights import load_arrays

    path = weights_file(checkpoint or default_run("weights", _note), _note)
    weights, info = load_arrays(path)
    listing = predict.Listing.of(info, attributes, threshold, top)
    asked = None
    if maps is not None:
        asked = MapOptions(map_method, NUM_MAPS if attributes is None and top is None else None)
        asked.check(info.model)
    engine, images = predict.choose_engine(
        weights, info, inputs, device, precision, streaming=inputs.is_stream, maps=asked
    )
    predictor = predict.Predictor(engine, info, listing, asked, views=sheet is not None)
    if info.data_source == DRAWN_FACES:
        _note("this model was trained on drawn faces: do not trust it on photos")
    read_errors, remarks = predict.ReadErrors(), Remarks()
    aligner = None
    if align:
        from vitpe.inference.align import FaceAligner

        aligner = FaceAligner(remarks, faces)
    found = predict.predict_files(predictor, images, aligner, save_crops, streaming=inputs.is_stream, remarks=remarks)
    with closing(found):
        predictions = read_errors.watch(found)
        if maps is not None:
            from vitpe.cli.map_output import with_pictures

            predictions = with_pictures(predictions, maps)
        if sheet is not None:
            from vitpe.cli.sheet_output import with_sheet

            predictions = with_sheet(predictions, sheet, path, info, chosen=attributes is not None or top is not None)
        if kind == "table":
            from vitpe.cli.console import show_table
            from vitpe.reporting.predict_table import predict_summary, predict_table

            for prediction in predictions:
                show = predict_table if inputs.is_one_image else predict_summary
                show_table(show(prediction))
        else:
            for text in records.prediction_lines(kind, predictions, predictor.attributes, faces=align):
                write_result(text)
    for note in filter(None, (*remarks.lines(), inputs.note())):
        _note(note)
    read_errors.check()


def _note(text: str) -> None:
    """Imports what writes for people when there is something to say: a single answer in a pipe does without."""
    from vitpe.cli.console import show_note

    show_note(text)
