"""`make docs`: draw the README's pictures, run its commands in a new folder, and write what they print into it: about
six minutes on two cores.

The model that the outputs are of is the one that the README's own first command trains: tiny, on drawn faces.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.docs.model_picture import model_picture
from tests.docs.readme import README, blocks, rewrite, run_on_terminal, run_script
from tests.docs.trained_pictures import write_trained_pictures
from tests.helpers import REPOSITORY
from vitpe.celeba import SIZE
from vitpe.config import DEFAULT_PRESET, PRESETS
from vitpe.data.drawn_faces import DrawnFaces
from vitpe.files import write_atomic
from vitpe.viz.animation import png

ASSETS = REPOSITORY / "assets"
FOLDER = REPOSITORY / "build" / "docs"


def contact_sheet(num_rows: int, num_cols: int, seed: int) -> NDArray[np.uint8]:
    """(num_rows · 218, num_cols · 178, 3) RGB: the first portraits of the training split, row by row."""
    height, width = SIZE
    faces = DrawnFaces("train", num_rows * num_cols, seed)
    portraits = faces.read(range(num_rows * num_cols)).reshape(num_rows, num_cols, 3, height, width)
    return portraits.transpose(0, 3, 1, 4, 2).reshape(num_rows * height, num_cols * width, 3)


def draw_pictures() -> None:
    """Those that need no training; a file whose pixels are the same stays as it is."""
    pictures = {
        "model_summary.png": model_picture(DEFAULT_PRESET, PRESETS[DEFAULT_PRESET].model),
        "drawn_faces.png": contact_sheet(num_rows=3, num_cols=8, seed=0),
    }
    for name, pixels in pictures.items():
        path = ASSETS / name
        if not (path.exists() and np.array_equal(np.asarray(Image.open(path).convert("RGB")), pixels)):
            write_atomic(path, png(pixels))


def run_readme() -> None:
    """Every console block anew, then every script."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)

    def run(command: str) -> str:
        print(f"$ {command}", flush=True)
        return run_on_terminal(command, FOLDER)

    text = rewrite(README.read_text(), run)
    # What the scripts ask for, as the text around them has it.
    run("vitpe train --set model.global_pool=token --run plain --steps 2 --num-train 64 --num-valid 32")
    shutil.copy(FOLDER / "faces" / "img_align_celeba" / "000001.jpg", FOLDER / "face.jpg")
    for block in blocks(text):
        if block.language == "python":
            run_script(block.text, FOLDER)
    write_atomic(README, text.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", action="store_true", help="only the pictures, which take seconds")
    parser.add_argument(
        "--trained", nargs=2, type=Path, metavar=("RUN", "CELEBA"), help="only those of a model trained on photos"
    )
    asked = parser.parse_args()
    if asked.trained:
        write_trained_pictures(*asked.trained, ASSETS)
    else:
        draw_pictures()
        if not asked.pictures:
            run_readme()
