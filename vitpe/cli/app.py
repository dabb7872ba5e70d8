"""The command line: options → configuration → one call → print. No maths, no file formats.

torch is imported inside the commands that compute, so that `--help` and `viz-pe` start at once. The order of options is
that of the help, where `rich_help_panel` begins a section.
"""

import json
import os
import shlex
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from vitpe.cli.options import (
    DEFAULT_RUN,
    Checkpoint,
    Checkpoints,
    Command,
    Device,
    Init,
    InitGrid,
    Keep,
    Labels,
    Precision,
    Preset,
    Relabel,
    Settings,
    Store,
    check_init,
    choose_format,
    configure,
    data_option,
    format_option,
    in_range,
    one_of,
    recipe_default,
    version_option,
)
from vitpe.cli.results import write_result
from vitpe.config import DRAWN_FACES, NUM_DRAWN_TRAIN, NUM_DRAWN_VALID, TrainConfig
from vitpe.errors import UsageError
from vitpe.fields import Bounds
from vitpe.inference.inputs import PredictInputs
from vitpe.launch import read_launch
from vitpe.viz.options import ANIMATION_FORMATS, VizOptions

app = typer.Typer(
    name="vitpe",
    help="Train a Vision Transformer on face attributes and watch its position embeddings learn the face.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_NUMBERS_FORMATS = ("table", "json", "jsonl")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, version_option()] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command(
    cls=Command,
    epilog="vitpe train\nvitpe train --data celeba --epochs 10\nvitpe train --resume\n"
    "vitpe train --data photos --labels labels.csv --set model.depth=6",
)
def train(
    data: Annotated[str | None, data_option("faces that vitpe draws")] = None,
    labels: Labels = None,
    relabel: Relabel = None,
    attributes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Attributes to train on: Smiling,Male.", show_default="all")
    ] = None,
    num_train: Annotated[
        int | None,
        typer.Option(help="Number of training images.", show_default=f"all; {NUM_DRAWN_TRAIN} drawn faces"),
    ] = None,
    num_valid: Annotated[
        int | None,
        typer.Option(help="Number of validation images.", show_default=f"all; {NUM_DRAWN_VALID} drawn faces"),
    ] = None,
    store: Store = None,
    preset_name: Preset = None,
    init: Init = None,
    init_grid: InitGrid = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training images.", show_default=recipe_default("epochs"), rich_help_panel="Training"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of updates, instead of --epochs.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per update, over all workers.", show_default=recipe_default("batch_size"))
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default=str(TrainConfig.seed))] = None,
    device: Device = None,
    settings: Settings = None,
    run: Annotated[Path, typer.Option(help="Folder for the run.", rich_help_panel="Run")] = DEFAULT_RUN,
    keep: Keep = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --run from its last state.")] = False,
) -> None:
    """Train a model, on faces that vitpe draws or on your images."""
    launch = read_launch()
    if launch.world_size > 1:  # torch logs a lost connection with its call stack; the error says it in a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    grid = check_init(init, init_grid, resume)
    given = {
        "data.data": data,
        "data.labels": None if labels is None else str(labels),
        "data.relabel": None if relabel is None else str(relabel),
        "data.attributes": None if attributes is None else [name.strip() for name in attributes.split(",")],
        "data.num_train": num_train,
        "data.num_valid": num_valid,
        "data.store": store,
        "train.epochs": epochs,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.seed": seed,
        "train.keep": keep,
    }
    config = configure(given, settings or [], preset_name, resume=run if resume else None)

    if launch.world_size == 1:  # of several workers, each must hear what one of them cannot read
        from vitpe.data.sources import check_source

        check_source(config.data, config.model.img_size)

    from vitpe.cli.console import TrainReporter, show_note, show_summary
    from vitpe.device import select_device
    from vitpe.training.train import train
    from vitpe.training.workers import joined

    command = "vitpe train" + ("" if run == DEFAULT_RUN else f" --run {shlex.quote(str(run))}")
    with TrainReporter(quiet=launch.rank > 0) as reporter, joined(launch, show_note) as workers:
        result = train(
            config,
            run,
            select_device(device),
            reporter,
            resume=resume,
            init=init,
            init_grid=grid,
            command=command,
            workers=workers,
        )
    if launch.rank == 0:
        summary = {"run": str(result.folder), "step": result.step, "valid": result.scores}
        show_summary(summary, [f"{key}: {value:.4f}" for key, value in (result.scores or {}).items()])


@app.command(
    name="eval",
    cls=Command,
    epilog="vitpe eval\nvitpe eval runs --sort lift --report report.png\n"
    "vitpe eval runs --thresholds tune --split test\nvitpe eval --compare runs/a runs/b --sort difference\n"
    "vitpe eval runs --by Male --sort gap --answers answers.csv\n"
    "vitpe eval --from-answers answers.csv --by Blond_Hair,Male",
)
def evaluate(
    checkpoints: Checkpoints = None,
    data: Annotated[str | None, data_option("what the model was trained on")] = None,
    labels: Labels = None,
    relabel: Relabel = None,
    split: Annotated[
        Literal["train", "valid", "test"], typer.Option(help="Images to score; use test for the final report only.")
    ] = "valid",
    thresholds: Annotated[
        str | None,
        typer.Option(
            help="A number from 0 to 1, or 'tune': fit on valid, store in the checkpoint; report with --split test.",
            show_default="the checkpoint's",
            rich_help_panel="Decisions",
        ),
    ] = None,
    criterion: Annotated[
        Literal["f1", "balanced_accuracy", "accuracy"] | None,
        typer.Option(help="Score that --thresholds tune maximises.", show_default="f1"),
    ] = None,
    calibrate: Annotated[
        Literal["temperature", "platt"] | None,
        typer.Option(help="Calibrate probabilities on valid, store that in the checkpoint; report with --split test."),
    ] = None,
    device: Device = None,
    precision: Precision = "fp32",
    output: Annotated[str | None, format_option("table", "json", "csv")] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="Sort attributes by a column; -COLUMN reverses the order.", show_default="as in the data"),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare two checkpoints.")] = False,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="ATTRIBUTES",
            help="Score groups of images: Male, or Male,Young (their product), or Male=1 (these images only).",
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write a report to this PNG file.")] = None,
    suspects: Annotated[Path | None, typer.Option(help="Also write the labels to doubt to this CSV file.")] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="Also write every probability and label to this file: .csv, .jsonl, .parquet."),
    ] = None,
    from_answers: Annotated[
        Path | None, typer.Option(help="Score such a file, any model's, instead of a checkpoint; no model runs.")
    ] = None,
) -> None:
    """Score a checkpoint, attribute by attribute. Accuracy is shown beside that of the majority answer."""
    from vitpe.inference.groups import parse_by
    from vitpe.reporting.group_records import check_sort
    from vitpe.reporting.metric_formats import sort_key

    kind = choose_format(output, ("table", "json", "csv"))
    if from_answers is not None:
        given = {
            "a checkpoint": checkpoints,
            "--data": data,
            "--labels": labels,
            "--relabel": relabel,
            "--split": split != "valid",
            "--thresholds tune": thresholds == "tune",
            "--criterion": criterion,
            "--calibrate": calibrate,
            "--device": device,
            "--precision": precision != "fp32",
            "--compare": compare,
            "--answers": answers,
        }
        if needless := [name for name, value in given.items() if value]:
            raise UsageError(f"--from-answers with {needless[0]}", "leave one out: no model runs on answers")
    paths = checkpoints or [DEFAULT_RUN]
    if len(paths) != (2 if compare else 1):
        hint = "name two: vitpe eval --compare A B" if compare else "name one, or compare two: vitpe eval --compare A B"
        raise UsageError(f"{len(paths)} checkpoint{'s' * (len(paths) > 1)} named", hint)
    if compare and suspects is not None:
        raise UsageError("--compare has no --suspects", "ask one model: vitpe eval RUN --suspects FILE.csv")
    if compare and (report is not None or (sort is not None and kind != "table")):
        raise UsageError("--compare has no --report, and --sort for its table only", "leave the other out")
    if compare and (by is not None or answers is not None):
        raise UsageError(f"--compare has no --{'answers' if by is None else 'by'}", "score one checkpoint at a time")
    terms = {} if by is None else parse_by(by)
    if terms:
        check_sort(sort)
    elif not (compare and sort in ("difference", "-difference")):
        sort_key(sort)  # which says at once when there is no such column

    from vitpe.cli import console
    from vitpe.cli.eval_output import show_answers, show_comparison, store_answers, stored_answers
    from vitpe.inference.eval_options import EvalOptions, plan
    from vitpe.outputs import check_new, check_output

    if report is not None:
        check_output(report, ".png", "--report")
    if suspects is not None:
        check_new(suspects, ".csv", "--suspects")
    if answers is not None:
        from vitpe.reporting.answer_files import check_answers_file

        check_answers_file(answers)
    options = EvalOptions(
        data, labels, split, thresholds, criterion, calibrate, precision, terms, suspects is not None, relabel
    )
    if from_answers is not None:
        show_answers(stored_answers(from_answers, options.threshold), terms, kind, sort, report, suspects)
        return
    planned = plan(paths, options, console.show_note)

    from vitpe.device import select_device
    from vitpe.inference.evaluate import evaluate as run

    with console.Counters() as counters:
        results = run(planned, select_device(device), counters)
    if compare:
        show_comparison(results[0], results[1], kind, sort)
    else:
        found = results[0].answers()
        show_answers(found, terms, kind, sort, report, suspects)
        if answers is not None:
            store_answers(answers, found)


@app.command(
    cls=Command,
    epilog="vitpe predict face.jpg\nvitpe predict photos --format csv > photos.csv\n"
    "find photos -name '*.jpg' -print0 | vitpe predict -0 -",
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
    save_crops: Annotated[Path | None, typer.Option(help="Folder for the images as the model sees them (PNG).")] = None,
    checkpoint: Annotated[
        Path, typer.Option(help="A checkpoint, or a run's folder (its best checkpoint).", rich_help_panel="Model")
    ] = DEFAULT_RUN,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Probability (0 to 1) at which an attribute counts as present.", show_default="the checkpoint's"
        ),
    ] = None,
    device: Device = None,
    precision: Precision = "fp32",
    output: Annotated[str | None, format_option("table", "jsonl", "json", "csv")] = None,
    top: Annotated[int | None, typer.Option(help="Show only the K most probable attributes.")] = None,
    attributes: Annotated[str | None, typer.Option(help="Show only these attributes: Smiling,Male.")] = None,
) -> None:
    """Predict the attributes of images."""
    kind = choose_format(output, ("table", "jsonl", "json", "csv"))
    in_range("--top", top, Bounds(1, 100_000))
    in_range("--threshold", threshold, Bounds(0, 1))
    inputs = PredictInputs(files or [], null, stdin_image, None if save_crops is None else str(save_crops))

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each core has an image of its own, and no two wait for another
    from vitpe.data.images import Remarks
    from vitpe.inference import predict
    from vitpe.inference.align import FaceAligner
    from vitpe.reporting import records
    from vitpe.runs.find import weights_file
    from vitpe.runs.weights import load_arrays

    path = weights_file(checkpoint)
    weights, info = load_arrays(path)
    listing = predict.Listing.of(info, attributes, threshold, top)
    engine, images = predict.choose_engine(weights, info, inputs, device, precision, streaming=inputs.is_stream)
    predictor = predict.Predictor(engine, info, listing)
    if info.data_source == DRAWN_FACES:
        _note("this model was trained on drawn faces: do not trust it on photos")
    aligner = FaceAligner(_note) if align else None
    read_errors, remarks = predict.ReadErrors(), Remarks()
    found = predict.predict_files(predictor, images, aligner, save_crops, streaming=inputs.is_stream, remarks=remarks)
    with closing(found):
        predictions = read_errors.watch(found)
        if kind == "table":
            from vitpe.cli.console import show_table
            from vitpe.reporting.predict_table import predict_summary, predict_table

            for prediction in predictions:
                show = predict_table if inputs.is_one_image else predict_summary
                show_table(show(prediction))
        else:
            for text in records.prediction_lines(kind, predictions, predictor.attributes):
                write_result(text)
    for note in filter(None, (*remarks.lines(), inputs.note())):
        _note(note)
    read_errors.check()


def _note(text: str) -> None:
    """Imports what writes for people when there is something to say: a single answer in a pipe does without."""
    from vitpe.cli.console import show_note

    show_note(text)


@app.command(
    name="viz-pe",
    cls=Command,
    epilog="vitpe viz-pe\nvitpe viz-pe runs/ckpts --html --out pictures\n"
    "vitpe viz-pe vit_base.safetensors --grid 14x14 --format json",
)
def viz_pe(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run folders, folders of checkpoints, or safetensors files.", show_default=str(DEFAULT_RUN)
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
    stills: Annotated[bool, typer.Option(help="Also write still pictures at print quality.")] = VizOptions.stills,
    size: Annotated[
        int, typer.Option(help="Width of the animation in pixels.", rich_help_panel="Look")
    ] = VizOptions.size,
    frame_ms: Annotated[int, typer.Option(help="Duration of a frame in milliseconds.")] = VizOptions.frame_ms,
    cmap: Annotated[str, typer.Option(help="Colour map of matplotlib.")] = VizOptions.cmap,
    per_tile_scale: Annotated[
        bool,
        typer.Option("--per-tile-scale", help="Give each map its own colour scale: more contrast, but not comparable."),
    ] = VizOptions.per_tile_scale,
    grid: Annotated[
        str | None, typer.Option(metavar="ROWSxCOLUMNS", help="Grid of patches, for files that do not hold it.")
    ] = VizOptions.grid,
) -> None:
    """Draw what the position embeddings learned. An animation over the run's history, still pictures, and a table."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products, which threads on a busy machine only delay
    from vitpe.cli import console
    from vitpe.viz.numbers import numbers_table
    from vitpe.viz.visualize import visualize

    for name in formats or []:
        one_of("--format", name, (*ANIMATION_FORMATS, *_NUMBERS_FORMATS))
    kind = choose_format(next((name for name in formats or [] if name in _NUMBERS_FORMATS), None), _NUMBERS_FORMATS)
    movie = next((name for name in ANIMATION_FORMATS if name in (formats or [])), VizOptions.format)
    options = VizOptions(
        out, movie, frame_ms, size=size, cmap=cmap, per_tile_scale=per_tile_scale, grid=grid, html=html, stills=stills
    )
    result = visualize(paths or [DEFAULT_RUN], options)
    for note in (*result.notes, *(f"wrote {path}" for path in result.paths)):
        console.show_note(note)
    if kind == "table":
        console.show_table(numbers_table(result.records))
    elif kind == "json":
        write_result(json.dumps(result.records, indent=2) + "\n")
    else:
        for record in result.records:
            write_result(json.dumps(record) + "\n")


@app.command(cls=Command, epilog="vitpe draw faces\nvitpe draw celeba --num-train 4096 --num-valid 1024 --zip")
def draw(
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    num_train: Annotated[int, typer.Option(help="Number of training images.")] = 0,
    num_valid: Annotated[int, typer.Option(help="Number of validation images.")] = 0,
    num_test: Annotated[int, typer.Option(help="Number of test images.")] = 8,
    seed: Annotated[int, typer.Option(help="Random seed; 0 draws the faces that train uses.")] = 0,
    output: Annotated[
        Literal["celeba", "parquet", "webdataset"],
        typer.Option(
            "--format", metavar="FORMAT", help="celeba (its layout), parquet (as on the hub) or webdataset (tar files)."
        ),
    ] = "celeba",
    zipped: Annotated[bool, typer.Option("--zip", help="Write the images as one zip archive.")] = False,
) -> None:
    """Write drawn faces and their labels in CelebA's format."""
    from vitpe.cli.console import show_summary
    from vitpe.data.drawn_faces import write_celeba_folder, write_parquet_folder, write_webdataset_folder

    if zipped and output != "celeba":
        raise UsageError(f"--zip with --format {output}", "leave --zip out: the images are in the files")
    if output == "parquet":
        write_parquet_folder(folder, num_train, num_valid, num_test, seed)
    elif output == "webdataset":
        write_webdataset_folder(folder, num_train, num_valid, num_test, seed)
    else:
        write_celeba_folder(folder, num_train, num_valid, num_test, seed, zipped)
    faces = num_train + num_valid + num_test
    show_summary({"folder": str(folder), "faces": faces}, [f"{faces} faces in {folder}"])


@app.command(cls=Command, epilog="vitpe export runs --out faces.onnx")
def export(
    checkpoint: Checkpoint = DEFAULT_RUN,
    out: Annotated[Path, typer.Option(help="ONNX file to write.")] = Path("vitpe.onnx"),
) -> None:
    """Export a checkpoint to ONNX. Input: uint8 images; output: probabilities; preprocessing is included."""
    from vitpe.outputs import check_output

    check_output(out, ".onnx", "--out")
    from vitpe.runs.find import weights_file
    from vitpe.runs.metadata import read_info

    path = weights_file(checkpoint)
    read_info(path)  # which says at once that it is none of ours

    from vitpe.cli.console import show_summary
    from vitpe.inference.export import export_onnx
    from vitpe.runs.checkpoint import load_checkpoint

    model, info = load_checkpoint(path)
    export_onnx(model, out, attributes=info.attributes, mean=info.mean, std=info.std, thresholds=info.thresholds)
    show_summary({"onnx": str(out)}, [str(out)])
