"""What the commands' options share: how help shows them, those that several commands have, and the output's format."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from vitpe.errors import UsageError
from vitpe.memory import enough_memory


class Command(TyperCommand):
    """Help has options under headings and examples at the end: an option's `rich_help_panel` is a heading, under which
    the options after it stand, too; `epilog` holds the examples, one a line. Too little memory is an error in two lines
    like any other.
    """

    def invoke(self, ctx: Any) -> Any:
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


Labels = Annotated[Path | None, typer.Option(help="CSV of 0/1 columns for images that are not CelebA's.")]
Init = Annotated[
    Path | None, typer.Option(help="Weights to start from: safetensors of vitpe, timm, torchvision, Hugging Face.")
]
InitGrid = Annotated[
    str | None, typer.Option(metavar="ROWSxCOLUMNS", help="Their grid of patches, where they do not say it.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", show_default="the best there is")]


def data_option(default: str) -> Any:
    """--data, which stands first under its heading."""
    text = "Folder of CelebA, or of images named in --labels."
    return typer.Option(help=text, show_default=default, rich_help_panel="Data")


def format_option(*formats: str) -> Any:
    """--format, as `choose_format` reads it."""
    return typer.Option(
        "--format",
        metavar="|".join(formats),
        help="How the result is written.",
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


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise UsageError, which names the option and what is known, for an unknown value."""
    if value not in known:
        raise UsageError(f"{option} {value!r}", f"choose one of {', '.join(known)}")
