"""The command line: options → configuration → one call → print. No maths, no file formats.

torch is imported inside the commands that compute, so that `--help` and `viz-pe` start at once.
"""

import json
import os
import sys
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitpe import __version__
from vitpe.config import (
    DEFAULT_PRESET,
    DRAWN_FACES,
    PRESETS,
    DataConfig,
    RunConfig,
    TrainConfig,
    parse_settings,
    preset,
    with_values,
)
from vitpe.errors import UsageError, VitpeError
from vitpe.scoring.inputs import Asked
from vitpe.viz.options import ANIMATION_FORMATS, VizOptions

app = typer.Typer(
    name="vitpe",
    help="Train a Vision Transformer on face attributes and watch its position embeddings learn the face.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
DEFAULT_RUN = Path("runs")
_Data = Annotated[str | None, typer.Option(help="Folder of CelebA, or of images named in --labels.")]
_Labels = Annotated[Path | None, typer.Option(help="CSV of 0/1 columns for images that are not CelebA's.")]
_Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: the best there is.")]


def main() -> None:
    """What `vitpe` runs: exit code 0 done, 1 failed, 2 wrong usage, 130 interrupted; quiet on a closed pipe."""
    # Pillow warns about odd metadata in users' images; a filter around each call would not be safe with threads.
    warnings.filterwarnings("ignore", module="PIL")
    code = 1
    try:
        code = app(standalone_mode=False) or 0
    except VitpeError as error:
        code = _report(error)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which typer makes exit code 1
            raise
        code = 141
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for wrong options; it has no stable public class
            raise
        code = _report(UsageError(error.format_message(), "see vitpe --help"))
    sys.exit(_close_stdout(code))


def _report(error: VitpeError) -> int:
    from vitpe.console import show_error

    show_error(error)
    return error.exit_code


def _close_stdout(code: int) -> int:
    """Flush, so that a closed pipe shows here and not as a message of the interpreter's at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _version(wanted: bool) -> None:
    if wanted:
        import torch

        from vitpe.device import describe_device, select_device

        print(f"vitpe {__version__}, torch {torch.__version__}, {describe_device(select_device(None))}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show versions and device.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    data: _Data = None,
    labels: _Labels = None,
    run: Annotated[Path, typer.Option(help="Folder that the run is written to.")] = DEFAULT_RUN,
    preset_name: Annotated[
        str | None, typer.Option("--preset", help=f"Model and recipe: {', '.join(PRESETS)}. Default: {DEFAULT_PRESET}.")
    ] = None,
    device: _Device = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the training images. Default: the preset's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images an update, over all workers.")] = None,
    seed: Annotated[int | None, typer.Option(help=f"Of all random draws. Default: {TrainConfig.seed}.")] = None,
    num_train: Annotated[int | None, typer.Option(help="Train on so many images only.")] = None,
    num_valid: Annotated[int | None, typer.Option(help="Validate on so many images only.")] = None,
    store: Annotated[
        str | None, typer.Option(help=f"Where images wait: device, memory, disk. Default: {DataConfig.store}.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help=f"History: all, pos_embed (only what pictures need). Default: {TrainConfig.keep}."),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Weights to start from: safetensors of vitpe, timm, torchvision, Hugging Face.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --run where it stopped.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any value of config.json: train.adamw_lr=3e-4."),
    ] = None,
) -> None:
    """Train a model, on faces that vitpe draws or on your images.

    Example: vitpe train --data celeba --preset tiny
    """
    from vitpe.console import TrainReporter
    from vitpe.device import select_device
    from vitpe.training.distributed import num_workers
    from vitpe.training.run import check_resumable, train
    from vitpe.training.run_folder import RunFolder

    given = {
        "data.data": None if data is None else str(Path(data).expanduser()),
        "data.labels": None if labels is None else str(labels),
        "data.num_train": num_train,
        "data.num_valid": num_valid,
        "data.store": store,
        "train.epochs": epochs,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.seed": seed,
        "train.keep": keep,
    }
    given = {key: value for key, value in given.items() if value is not None} | parse_settings(settings or [])
    resuming = resume and RunFolder(run).config.exists()
    if resuming:
        stored = RunFolder(run).read_config()
        config = with_values(stored, given, "options")
        check_resumable(stored, config)
        if preset_name not in (None, stored.preset):
            raise UsageError(f"the run in {run} has preset {stored.preset}", "resume without --preset")
    else:
        chosen = preset(preset_name or DEFAULT_PRESET)
        base = RunConfig(preset=preset_name or DEFAULT_PRESET, model=chosen.model, train=chosen.train)
        config = with_values(base, given, "options")
    command = "vitpe train" + ("" if run == DEFAULT_RUN else f" --run {run}")
    rank = int(os.environ.get("RANK", "0"))
    with TrainReporter(quiet=num_workers() > 1 and rank > 0) as reporter:
        result = train(config, run, select_device(device), reporter, resume=resuming, init=init, command=command)
    if rank == 0:
        summary = {"run": str(result.folder), "step": result.step, "valid": result.scores}
        _print_result(summary, [f"{key}: {value:.4f}" for key, value in (result.scores or {}).items()])


def _print_result(values: dict[str, Any], lines: list[str]) -> None:
    """For people on a terminal, JSON on one line in a pipe."""
    print("\n".join(lines) if sys.stdout.isatty() else json.dumps(values))


_Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint, or a run's folder (its best one).")]
_Format = Annotated[str | None, typer.Option("--format", help="Default: table on a terminal, else what pipes want.")]


@app.command(name="eval")
def evaluate(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(help="A checkpoint, or a run's folder (its best one). Default: runs.")
    ] = None,
    data: _Data = None,
    labels: _Labels = None,
    split: Annotated[
        Literal["train", "valid", "test"], typer.Option(help="test is for the final report only.")
    ] = "valid",
    device: _Device = None,
    output: _Format = None,
    sort: Annotated[str | None, typer.Option(help="Order the attributes by a column; -COLUMN turns it round.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put two checkpoints side by side.")] = False,
    thresholds: Annotated[
        str | None, typer.Option(help="A number, or 'tune': fit them on valid into the checkpoint, report on test.")
    ] = None,
    criterion: Annotated[
        Literal["f1", "balanced_accuracy", "accuracy"] | None, typer.Option(help="What tuning maximises. Default: f1.")
    ] = None,
    calibrate: Annotated[
        Literal["temperature", "platt"] | None,
        typer.Option(help="Fit probabilities on valid into the checkpoint, report on test."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also draw a report into this PNG file.")] = None,
) -> None:
    """Score a checkpoint, attribute by attribute, against the majority's answer.

    Examples: vitpe eval runs --sort lift; vitpe eval --compare runs/a runs/b --sort difference
    """
    from vitpe.scoring import records

    kind = _choose_format(output, ("table", "json", "csv"))
    paths = checkpoints or [DEFAULT_RUN]
    if len(paths) != (2 if compare else 1):
        raise UsageError(f"checkpoints named: {len(paths)}", "name one, or two after --compare")
    if compare and (report is not None or (sort is not None and kind != "table")):
        raise UsageError("--compare has no --report, and --sort for its table only", "leave the other out")
    if not (compare and sort in ("difference", "-difference")):
        records.sort_key(sort)  # which says at once when there is no such column

    from vitpe import console
    from vitpe.device import select_device
    from vitpe.files import write_atomic
    from vitpe.scoring import run, tables

    options = run.EvalOptions(data, labels, split, thresholds, criterion, calibrate)
    with console.Counters() as counters:
        answers = run.evaluate(paths, options, select_device(device), counters)
    first, last = answers[0].subject(), answers[-1].subject()
    if compare:
        comparison = run.compare_answers(*answers)
        table = tables.compare_table(comparison, first, last, sort=sort)
        text = records.compare_csv(comparison) if kind == "csv" else records.compare_json(comparison, first, last)
    else:
        scores = answers[0].scores()
        table = tables.eval_table(scores, first, sort)
        text = records.eval_csv(scores, sort) if kind == "csv" else records.eval_json(scores, first, sort)
    if kind == "table":
        console.show_table(table)
    else:
        console.write_result(text)
    if report is not None:
        from vitpe.scoring.report import report_png

        write_atomic(report, report_png(answers[0].probs(), answers[0].labels, scores, first))


@app.command()
def predict(
    files: Annotated[list[str] | None, typer.Argument(help="Images, folders, patterns; '-': names on stdin.")] = None,
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint, or a run's folder.")] = DEFAULT_RUN,
    device: _Device = None,
    output: _Format = None,
    top: Annotated[int | None, typer.Option(help="List only the K most probable attributes.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Call present from here. Default: the model's.")] = None,
    attributes: Annotated[str | None, typer.Option(help="List only these: Smiling,Male.")] = None,
    null: Annotated[bool, typer.Option("-0", "--null", help="Names on stdin end in NUL (find -print0).")] = False,
    stdin_image: Annotated[bool, typer.Option("--stdin-image", help="Stdin is an image itself.")] = False,
    align: Annotated[bool, typer.Option("--align", help="Find the face and bring it to CelebA's template.")] = False,
    save_crops: Annotated[Path | None, typer.Option(help="Folder for what the model saw, as PNG files.")] = None,
) -> None:
    """Predict the attributes of images.

    Example: find photos -name '*.jpg' -print0 | vitpe predict -0 - --format jsonl
    """
    kind = _choose_format(output, ("table", "jsonl", "json", "csv"))
    asked = Asked(files or [], null, stdin_image)

    from vitpe import console
    from vitpe.data.align import FaceAligner
    from vitpe.device import select_device
    from vitpe.scoring import predict, records, run
    from vitpe.scoring.predict_table import predict_summary, predict_table

    path = run.find_checkpoint(checkpoint)
    predictor = predict.load_predictor(path, select_device(device), attributes, threshold, top)
    if predictor.info.data_source == DRAWN_FACES:
        console.show_note("this model was trained on drawn faces: do not trust it on photos")
    aligner = FaceAligner(console.show_note) if align else None
    failures = predict.Failures()
    found = predict.predict_files(predictor, asked, aligner, save_crops, streaming=asked.is_stream)
    with closing(found):
        predictions = failures.watch(found)
        if kind == "table":
            for prediction in predictions:
                shown = replace(prediction, file=console.printable(prediction.file))
                console.show_table(predict_table(shown) if asked.is_one_image else predict_summary(shown))
        else:
            for text in records.prediction_lines(kind, predictions, predictor.attributes):
                console.write_result(text)
    failures.check()


@app.command(name="viz-pe")
def viz_pe(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, folders of checkpoints, or safetensors files. Default: runs."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = VizOptions.out,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="Of the animation: gif, mp4, webp, png-frames; of the numbers: table, json, jsonl."
        ),
    ] = None,
    frame_ms: Annotated[int, typer.Option(help="How long a frame is shown, in milliseconds.")] = VizOptions.frame_ms,
    size: Annotated[int, typer.Option(help="Width of the animation in pixels.")] = VizOptions.size,
    cmap: Annotated[str, typer.Option(help="A colour map of matplotlib's.")] = VizOptions.cmap,
    per_tile_scale: Annotated[
        bool, typer.Option("--per-tile-scale", help="Each map on a scale of its own: sharper, but not comparable.")
    ] = VizOptions.per_tile_scale,
    grid: Annotated[
        str | None, typer.Option(metavar="ROWSxCOLUMNS", help="Of patches, for files that do not say it.")
    ] = VizOptions.grid,
    html: Annotated[
        bool, typer.Option("--html", help="Also a page to explore: hover over a patch, slide through time.")
    ] = VizOptions.html,
    stills: Annotated[bool, typer.Option(help="Also the still pictures, at print quality.")] = VizOptions.stills,
) -> None:
    """Draw what position embeddings learned: the similarity GIF over a run's history, stills, and numbers.

    Example: vitpe viz-pe runs/ckpts --html
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products, which threads on a busy machine only delay
    from vitpe import console
    from vitpe.viz.run import visualize
    from vitpe.viz.tables import numbers_table

    kinds = ("table", "json", "jsonl")
    for name in formats or []:
        _one_of("--format", name, (*ANIMATION_FORMATS, *kinds))
    kind = _choose_format(next((name for name in formats or [] if name in kinds), None), kinds)
    options = VizOptions(
        out,
        next((name for name in ANIMATION_FORMATS if name in (formats or [])), VizOptions.format),
        frame_ms,
        size=size,
        cmap=cmap,
        per_tile_scale=per_tile_scale,
        grid=grid,
        html=html,
        stills=stills,
    )
    result = visualize(paths or [DEFAULT_RUN], options)
    for note in (*result.notes, *(f"wrote {path}" for path in result.paths)):
        console.show_note(note)
    if kind == "table":
        console.show_table(numbers_table(result.records))
    elif kind == "json":
        print(json.dumps(result.records, indent=2))
    else:
        for record in result.records:
            print(json.dumps(record))


@app.command()
def draw(
    folder: Annotated[Path, typer.Argument(help="A new folder, in CelebA's layout.")],
    num_train: Annotated[int, typer.Option(help="Faces of the train split.")] = 0,
    num_valid: Annotated[int, typer.Option(help="Faces of the valid split.")] = 0,
    num_test: Annotated[int, typer.Option(help="Faces of the test split.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the faces; 0 draws those that train draws.")] = 0,
    zipped: Annotated[bool, typer.Option("--zip", help="Images in one zip archive, as CelebA is published.")] = False,
) -> None:
    """Draw faces into a folder, with label files in CelebA's format.

    Example: vitpe draw faces --num-test 8
    """
    from vitpe.data.drawn_faces import write_celeba_folder

    write_celeba_folder(folder, num_train, num_valid, num_test, seed, zipped)
    faces = num_train + num_valid + num_test
    _print_result({"folder": str(folder), "faces": faces}, [f"{faces} faces in {folder}"])


@app.command()
def export(
    checkpoint: _Checkpoint = DEFAULT_RUN,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")] = Path("vitpe.onnx"),
) -> None:
    """Write a checkpoint as ONNX: uint8 images in, probabilities out, preprocessing inside.

    Example: vitpe export runs --out faces.onnx
    """
    from vitpe.export import export_onnx
    from vitpe.scoring.run import find_checkpoint
    from vitpe.training.checkpoint import load_checkpoint

    model, info = load_checkpoint(find_checkpoint(checkpoint))
    export_onnx(model, out, attributes=info.attributes, mean=info.mean, std=info.std, thresholds=info.thresholds)
    _print_result({"onnx": str(out)}, [str(out)])


def _choose_format(output: str | None, formats: tuple[str, ...]) -> str:
    """The format asked for; else the table on a terminal and the second, which pipes want, elsewhere."""
    if output is None:
        return formats[0] if sys.stdout.isatty() else formats[1]
    _one_of("--format", output, formats)
    return output


def _one_of(option: str, value: str | None, known: tuple[str | None, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value!r}", f"choose one of {', '.join(filter(None, known))}")
