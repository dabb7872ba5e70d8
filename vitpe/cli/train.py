"""`vitpe train`: a configuration → a run."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitpe.cli.completion import attributes_to_train, choices
from vitpe.cli.options import (
    Device,
    Init,
    InitGrid,
    Keep,
    Labels,
    Preset,
    Relabel,
    Settings,
    Store,
    check_init,
    configure,
    data_option,
    in_range,
    names_of,
    preset_default,
    run_to_resume,
)
from vitpe.config import DEFAULT_PRESET, FOLDS, NUM_DRAWN_TRAIN, NUM_DRAWN_VALID, PRESETS, RunConfig, TrainConfig
from vitpe.errors import UsageError
from vitpe.fields import Bounds
from vitpe.launch import read_launch

if TYPE_CHECKING:
    from vitpe.training.train import TrainResult

_DEFAULT = PRESETS[DEFAULT_PRESET]
EXAMPLES = (
    "vitpe train\nvitpe train --data celeba --epochs 10\nvitpe train --resume\n"
    "vitpe train --data photos --labels labels.csv --set model.depth=6\n"
    "vitpe train --config runs/1/config.json --seed 1"
)


def train(
    data: Annotated[str | None, data_option("faces that vitpe draws")] = None,
    labels: Labels = None,
    relabel: Relabel = None,
    attributes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Attributes to train on: Smiling,Male.",
            show_default="all",
            autocompletion=attributes_to_train,
        ),
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
    repeat: Annotated[
        Path | None, typer.Option("--config", help="Repeat the run of this config.json; other options change it.")
    ] = None,
    init: Init = None,
    init_grid: InitGrid = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training images.",
            show_default=f"{preset_default(_DEFAULT.epochs)}, fewer of more than {_DEFAULT.num_images:,} images",
            rich_help_panel="Training",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of updates, instead of --epochs.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Minutes that all may take: as many steps as this machine does in them, instead of --epochs."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images per update, over all workers.", show_default=preset_default(_DEFAULT.train.batch_size)
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Draw images so that groups by these attributes' values come equally often: Blond_Hair,Male.",
            show_default="each image equally often",
            autocompletion=attributes_to_train,
        ),
    ] = None,
    pos_weight: Annotated[
        str | None,
        typer.Option(
            help="auto: an attribute's rare labels count as much as its frequent ones, for balanced accuracy at 0.5;"
            " eval --calibrate platt puts probabilities right. Or none.",
            show_default=TrainConfig.pos_weight,
            autocompletion=lambda: choices("train.pos_weight"),
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Train K models, each without a Kth of the images, and write their answers for these."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default=str(TrainConfig.seed))] = None,
    device: Device = None,
    settings: Settings = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder for the run.", show_default="runs/1, runs/2, …", rich_help_panel="Run"),
    ] = None,
    keep: Keep = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER",
            help="Also log to tensorboard or wandb. May be given twice.",
            autocompletion=lambda: ["tensorboard", "wandb"],
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --run, or the newest, from its last state.")
    ] = False,
) -> None:
    """Train a model, on faces that vitpe draws or on your images."""
    launch = read_launch()
    if launch.world_size > 1:  # torch logs a lost connection with its call stack; the error says it in a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    init, grid = check_init(init, init_grid, resume)
    _check_minutes(minutes, {"--epochs": epochs, "--steps": steps, "--resume": resume or None})
    others = {"--init": init, "--minutes": minutes, "--log": log, "several workers": launch.world_size > 1}
    folder_of_folds = _folder_of_folds(folds, run, resume, others)
    if resume and folder_of_folds is None:
        run = run_to_resume(run)
    given = {
        "data.data": data,
        "data.labels": [str(path) for path in labels] if labels else None,
        "data.relabel": None if relabel is None else str(relabel),
        "data.attributes": names_of(attributes),
        "data.num_train": num_train,
        "data.num_valid": num_valid,
        "data.store": store,
        "train.epochs": epochs,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.balance": names_of(balance),
        "train.pos_weight": pos_weight,
        "train.seed": seed,
        "train.keep": keep,
    }
    if folder_of_folds is not None:
        from vitpe.cli.folds import train_folds

        def configured(to_resume: Path | None) -> RunConfig:
            return configure(given, settings or [], preset_name, repeat, to_resume)

        train_folds(configured, folds, folder_of_folds, device, resume)
        return
    from vitpe.cli.trackers import make_trackers

    trackers = make_trackers(log or [])
    config = configure(given, settings or [], preset_name, repeat, run if resume else None, init)

    if launch.world_size == 1:  # of several workers, each must hear what one of them cannot read
        from vitpe.data.sources import check_source

        check_source(config.data, config.model.img_size)

    from vitpe.cli.console import show_note
    from vitpe.cli.progress import TrainReporter

    with TrainReporter(quiet=launch.rank > 0) as reporter:
        with reporter.doing("loading torch"):
            from vitpe.device import select_device
            from vitpe.training.train import train
            from vitpe.training.workers import joined

        with joined(launch, show_note) as workers:
            result = train(
                config,
                run,
                select_device(device),
                reporter,
                resume=resume,
                init=init,
                init_grid=grid,
                workers=workers,
                trackers=trackers,
                minutes=minutes,
            )
    if launch.rank == 0:
        _show(result)


def _check_minutes(minutes: float | None, others: Mapping[str, object]) -> None:
    """others: options that say how long to train, too, None where not given."""
    in_range("--minutes", minutes, Bounds(0, 1_000_000, above=True))
    if minutes is not None and (given := [option for option, value in others.items() if value is not None]):
        raise UsageError(
            f"--minutes with {given[0]}", "leave one out; a run is resumed to the steps that it began with"
        )


def _folder_of_folds(folds: int | None, run: Path | None, resume: bool, others: Mapping[str, object]) -> Path | None:
    """Of the runs that --folds asks for, or that are resumed; None for a single run. others: what has no folds."""
    from vitpe.runs.folder import RunFolder

    in_range("--folds", folds, Bounds(2, FOLDS.high))
    if folds is None and not (resume and run is not None and RunFolder(run / "fold-1").exists):
        return None
    if needless := [name for name, value in others.items() if value]:
        raise UsageError(f"--folds with {needless[0]}", "leave one out")
    if run is None:
        raise UsageError("--folds without --run", "name the folder of the runs: --run runs/folds")
    return run


def _show(result: "TrainResult") -> None:
    """What is best, where it lies, and what to do next."""
    from vitpe.cli.console import show_note, show_summary
    from vitpe.cli.run_output import REPORT

    summary = {"run": str(result.folder), "step": result.step, "valid": result.scores}
    if best := result.best:
        show_note(f"best: {best.file}, of step {best.step:,}, valid accuracy {best.accuracy:.4f}")
        summary["best"] = {"file": str(best.file), "step": best.step, "mean_accuracy": best.accuracy}
    name = shlex.quote(str(result.folder))
    show_note(f"curves: {result.folder / REPORT}")
    show_note(f"next: vitpe eval {name}, and look at it: vitpe viz-pe {name}")
    show_summary(summary, [f"{key}: {value:.4f}" for key, value in (result.scores or {}).items()])
