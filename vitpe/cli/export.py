"""`vitpe export`: a checkpoint in the forms of other libraries."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from vitpe.cli.options import Checkpoint

if TYPE_CHECKING:
    from vitpe.inference.predictions import EvalInfo
    from vitpe.metrics.scores import Scores

EXAMPLES = "vitpe export runs --out faces.onnx\nvitpe export runs --format hf --out faces"
_OUT: Final = {
    "onnx": Path("vitpe.onnx"),
    "hf": Path("vitpe-hf"),
    "timm": Path("vitpe-timm"),
    "safetensors": Path("vitpe.safetensors"),
}


def export(
    checkpoint: Checkpoint = None,
    kind: Annotated[
        Literal["onnx", "hf", "timm", "safetensors"],
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="onnx (with preprocessing), hf (a folder for transformers), timm (one for timm), safetensors.",
        ),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File or folder to write.", show_default="vitpe.onnx, vitpe-hf, …")
    ] = None,
) -> None:
    """Export a checkpoint for other libraries; folders get a model card with the scores on valid."""
    from vitpe.cli.console import show_note, show_summary
    from vitpe.outputs import check_output
    from vitpe.runs.find import default_run, weights_file
    from vitpe.runs.metadata import read_info

    place = out or _OUT[kind]
    if kind in ("onnx", "safetensors"):
        check_output(place, f".{kind}", "--out")
    path = weights_file(checkpoint or default_run("weights", show_note), show_note)
    read_info(path)  # which says at once that it is none of ours

    if kind == "onnx":
        from vitpe.inference.export import export_onnx
        from vitpe.runs.checkpoint import load_checkpoint

        model, info = load_checkpoint(path)
        export_onnx(
            model,
            place,
            attributes=info.attributes,
            mean=info.mean,
            std=info.std,
            thresholds=info.thresholds,
            fit=info.fit,
        )
    elif kind == "safetensors":
        from vitpe.files import write_atomic
        from vitpe.runs.weights import load_arrays

        load_arrays(path)  # a damaged one is not passed on
        write_atomic(place, path.read_bytes())
    else:
        _write_folder(path, kind, place)
    show_summary({kind: str(place)}, [str(place)])


def _write_folder(path: Path, library: Literal["hf", "timm"], folder: Path) -> None:
    """The weights last: a folder that has them is whole."""
    from vitpe.cli.console import show_note
    from vitpe.errors import UsageError
    from vitpe.files import make_folder, write_atomic
    from vitpe.inference.share import huggingface_files, timm_files
    from vitpe.outputs import check_folder, refuse_foreign
    from vitpe.reporting.model_card import model_card
    from vitpe.runs.weights import load_arrays

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file", "name a folder")
    weights, info = load_arrays(path)
    files = (huggingface_files if library == "hf" else timm_files)(weights, info)
    for name in ("README.md", *files):
        refuse_foreign(folder / name)
    make_folder(folder)
    check_folder(folder, folder)
    card = model_card(info, library, _scored(path))
    if library == "hf" and info.fit == "pad":
        show_note(
            f"images need borders first, which {folder / 'preprocessor_config.json'} cannot add: README.md says how"
        )
    for name, data in {"README.md": card.encode(errors="replace"), **files}.items():
        write_atomic(folder / name, data)


def _scored(path: Path) -> "tuple[Scores, EvalInfo] | None":
    """The scores on valid and of what they are; None, with a note, where its images are not at hand."""
    from vitpe.cli.console import show_note
    from vitpe.cli.progress import Counters
    from vitpe.device import select_device
    from vitpe.errors import VitpeError
    from vitpe.inference.eval_options import EvalOptions, plan
    from vitpe.inference.evaluate import evaluate

    try:
        planned = plan([path], EvalOptions(), show_note)
        with Counters() as counters:
            answers = evaluate(planned, select_device(None), counters)[0].answers()
    except VitpeError as error:
        show_note(f"the model card has no scores: {error.message}")
        return None
    return answers.scores(), answers.info
