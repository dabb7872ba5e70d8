"""`vitpe export`: a checkpoint in the forms of other libraries."""

from pathlib import Path
from typing import Annotated

import typer

from vitpe.cli.options import (
    DEFAULT_RUN,
    Checkpoint,
)

EXAMPLES = "vitpe export runs --out faces.onnx"


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
