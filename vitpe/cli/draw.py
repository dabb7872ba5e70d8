"""`vitpe draw`: drawn faces as files."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vitpe.errors import UsageError

EXAMPLES = "vitpe draw faces\nvitpe draw celeba --num-train 4096 --num-valid 1024 --zip"


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
