"""The command line: options → configuration → one call → print. No maths, no file formats. A file a command.

torch is imported inside the commands that compute, so that `--help` and `viz-pe` start at once. The order of options is
that of the help, where `rich_help_panel` begins a section.
"""

from typing import Annotated

import typer

from vitpe.cli import draw, eval, export, predict, train, viz_pe
from vitpe.cli.options import Command, version_option

app = typer.Typer(
    name="vitpe",
    help="Train a Vision Transformer on face attributes and watch its position embeddings learn the face.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, version_option()] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


app.command(cls=Command, epilog=train.EXAMPLES)(train.train)
app.command("eval", cls=Command, epilog=eval.EXAMPLES)(eval.evaluate)
app.command(cls=Command, epilog=predict.EXAMPLES)(predict.predict)
app.command("viz-pe", cls=Command, epilog=viz_pe.EXAMPLES)(viz_pe.viz_pe)
app.command(cls=Command, epilog=draw.EXAMPLES)(draw.draw)
app.command(cls=Command, epilog=export.EXAMPLES)(export.export)
