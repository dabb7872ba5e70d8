"""What the commands' options share: how help shows them, those that several commands have, and the output's format."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from vitpe import __version__
from vitpe.cli import completion
from vitpe.cli.memory import enough_memory
from vitpe.config import DEFAULT_PRESET, PRESETS, DataConfig, RunConfig, TrainConfig, parse_settings, with_values
from vitpe.errors import UsageError
from vitpe.fields import Bounds, require
from vitpe.runs.find import RUNS, default_run, kind_of, newest_run, weights_file
from vitpe.text import brief


class Command(TyperCommand):
    """Help has options under headings and examples at the end: an option's `rich_help_panel` is a heading, under which
    the options after it stand, too; `epilog` holds the examples, one a line. Too little memory is an error in two lines
    like any other.
    """

    def invoke(self, ctx: Any) -> Any:
        """No shell expands the ~ in --run=~/x: here every option's is."""
        for param in self.params:
            if param.param_type_name == "option":
                ctx.params[param.name] = _at_home(ctx.params[param.name])
        with enough_memory(self.name):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then the options in the order in which they are declared."""
        heading, sections = "Options", dict[str, list[tuple[str, str]]]()
        for param in self.params:
            record = param.get_help_record(ctx)
            if record is not None:
                option = param.param_type_name == "option"
                heading = (getattr(param, "rich_help_panel", None) or heading) if option else heading
                sections.setdefault(heading if option else "Arguments", []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                # typer puts a default that is told, not computed, into brackets of its own
                formatter.write_dl(
                    [(left, text.replace("default: (", "default: ").replace(")]", "]")) for left, text in records]
                )

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Each example on a line of its own, however narrow the terminal."""
        with formatter.section("Examples"):
            for example in (self.epilog or "").splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


CHECKPOINT = "A checkpoint, a run's folder (its best), or a folder of runs (the newest)."
NEWEST = f"the newest in {RUNS}"
Checkpoint = Annotated[Path | None, typer.Argument(help=CHECKPOINT, show_default=NEWEST)]
Checkpoints = Annotated[list[Path] | None, typer.Argument(help=CHECKPOINT, show_default=NEWEST)]
Labels = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="CSV", help="Image paths and 0/1 columns, for images other than CelebA; several files, or a folder."
    ),
]
Relabel = Annotated[Path | None, typer.Option(help="CSV of corrected labels: image,attribute,value.")]
Init = Annotated[
    Path | None, typer.Option(help="Initial weights: safetensors of vitpe, timm, torchvision or Hugging Face.")
]
InitGrid = Annotated[
    str | None, typer.Option(metavar="ROWSxCOLUMNS", help="Grid of patches of --init, where the file does not hold it.")
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help=f"Model and training recipe: {', '.join(PRESETS)}.",
        show_default=DEFAULT_PRESET,
        autocompletion=lambda: list(PRESETS),
        rich_help_panel="Model",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any value of config.json, e.g. train.adamw_lr=3e-4.",
        autocompletion=completion.settings,
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        help="Where images are kept: auto, device, memory, disk.",
        show_default=DataConfig.store,
        autocompletion=lambda: completion.choices("data.store"),
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="What the history keeps: auto, all (whole models), pos_embed (what viz-pe needs).",
        show_default=TrainConfig.keep,
        autocompletion=lambda: completion.choices("train.keep"),
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device: cpu, cuda, cuda:1, mps.",
        show_default="the fastest available",
        autocompletion=lambda: list(completion.DEVICES),
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16"], typer.Option(help="bf16 is faster where the processor has it, and a little less exact.")
]
MapMethod = Annotated[
    Literal["occlusion", "relevance", "attention"],
    typer.Option(
        metavar="METHOD",
        help="occlusion; relevance: gradients, faster for large models; attention: where attribute queries look.",
    ),
]


def _at_home(value: Any) -> Any:
    if isinstance(value, str | Path):
        return type(value)(os.path.expanduser(value))  # noqa: PTH111 - a Path raises for a user whom it does not find
    return [_at_home(each) for each in value] if isinstance(value, list) else value


def preset_default(value: float) -> str:
    """What the default preset has there, as help says it."""
    return f"the preset's; {value:g} for {DEFAULT_PRESET}"


def version_option() -> Any:
    """--version, which ends the command."""

    def show(wanted: bool) -> None:
        if wanted:
            from importlib.metadata import version

            typer.echo(f"vitpe {__version__}, torch {version('torch')}")
            raise typer.Exit

    return typer.Option("--version", callback=show, is_eager=True, help="Show versions.")


def data_option(default: str, panel: str | None = "Data") -> Any:
    """--data, which stands first under its heading, where it has one."""
    text = "Folder or file: CelebA, parquet, WebDataset, or images of --labels."
    return typer.Option(help=text, show_default=default, rich_help_panel=panel)


def format_option(*formats: str) -> Any:
    """--format, as `choose_format` reads it."""
    return typer.Option(
        "--format",
        metavar="|".join(formats),
        help="Output format.",
        show_default=f"{formats[0]} on a terminal, else {formats[1]}",
        autocompletion=lambda: list(formats),
        rich_help_panel="Result",
    )


def choose_format(output: str | None, formats: tuple[str, ...]) -> str:
    """The format asked for; else the table on a terminal and the second, which pipes want, elsewhere."""
    if output is None:
        return formats[0] if sys.stdout.isatty() else formats[1]
    one_of("--format", output, formats)
    return output


def explain(message: str, values: Sequence[Any], command: str) -> UsageError:
    """What typer says of a wrong option or argument, in plain words. values: those that were given for it, if known."""
    hint = f"see {command} --help"
    match = re.fullmatch(r"Invalid value for '([^']*)'(?: / '[^']*')?: (.*)", message, re.DOTALL)
    if match is None:
        return UsageError(message.removesuffix("."), hint)
    option, reason = match[1], match[2].removesuffix(".")
    for pattern, expected in _REASONS:
        reason = re.sub(pattern, expected, reason, flags=re.DOTALL)
    if not values or not reason.startswith("expected"):
        return UsageError(f"{option}: {reason}", hint)
    return UsageError(f"{option} {brief(values[0])!r}", f"{reason}; {hint}")


_REASONS = (
    (r"Input should be a valid number\b.*", "expected a number"),
    (r"(Input should be a valid|Unable to parse input string as an) integer\b.*", "expected a whole number"),
    (r"Value error, .* is not one of (.*)", r"expected one of \1"),
    (r"Value error, ", ""),
    (r"Input should be ", "expected "),
)


def names_of(text: str | None) -> list[str] | None:
    """ "A, B" → ["A", "B"]; None where nothing is given."""
    return None if text is None else [name.strip() for name in text.split(",")]


def in_range(option: str, value: float | None, bounds: Bounds) -> None:
    """UsageError naming the option for a number outside its bounds; None is in any."""
    if value is not None and value not in bounds:
        raise UsageError(f"{option} {value}", str(bounds))


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise UsageError, which names the option and what is known, for an unknown value."""
    if value not in known:
        raise UsageError(f"{option} {brief(value)!r}", f"choose one of {', '.join(known)}")


def check_init(init: Path | None, grid: str | None, resume: bool) -> tuple[Path | None, tuple[int, int] | None]:
    """--init as one file, and --init-grid as (rows, columns). Raises VitpeError, before anything is imported or
    decoded, where --init cannot be read; a run that is resumed does not read it.
    """
    from vitpe.model.facts import parse_grid
    from vitpe.runs.tensor_file import open_tensors

    if grid is not None and init is None:
        raise UsageError(f"--init-grid {grid} without --init", "name the weights: --init FILE")
    size = None if grid is None else parse_grid(grid, "--init-grid")
    if init is not None and not resume:
        init = weights_file(init)
        with open_tensors(init):
            pass
    return init, size


def run_to_resume(named: Path | None) -> Path:
    """The run that --resume goes on with: of none or a folder of runs the newest, which is said later."""
    from vitpe.runs.folder import RunFolder

    if named is None:
        return default_run("state", lambda text: None)
    if RunFolder(named).exists or not named.is_dir():
        return named
    return newest_run(named, "state") or named


def configure(
    options: Mapping[str, Any],
    settings: list[str],
    preset: str | None,
    repeat: Path | None = None,
    resume: Path | None = None,
    init: Path | None = None,
) -> RunConfig:
    """The configuration that `vitpe train` is asked for: `options` by key, None where not given, then --set, on the
    preset's values, or on those of the config.json `repeat`, or of the run in the folder `resume`. Epochs that are
    given take the place of a stored number of steps. init: the weights that are given, which a run that began with some
    is not repeated without. UsageError for what does not fit.
    """
    from vitpe.runs.folder import RunFolder

    given = {key: value for key, value in options.items() if value is not None} | parse_settings(settings)
    if repeat is None and resume is None:
        return with_values(RunConfig.from_preset(preset or DEFAULT_PRESET), given)
    if repeat is not None and resume is not None:
        raise UsageError("--config with --resume", "a run that is resumed has its own: leave --config out")
    run = RunFolder(repeat or resume or RUNS)
    if repeat is not None and kind_of(repeat) != "folder":
        require(repeat.exists(), f"no configuration {repeat}", "name a run's config.json: --config runs/1/config.json")
        run.path, run.config = repeat.parent, repeat
    stored = run.read_config()
    began_with = None if run.identity is None else run.identity.init
    if repeat is not None and began_with is not None and init is None:
        raise UsageError(
            f"the run in {run.path} began with the weights of {began_with}",
            f"repeat it with them, or others: --init {quote(began_with)}",
        )
    if preset not in (None, stored.preset):
        raise UsageError(f"the run in {run.path} has preset {stored.preset}", "leave --preset out")
    if "train.epochs" in given:
        given.setdefault("train.steps", None)
    return with_values(stored, given)
