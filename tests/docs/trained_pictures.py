"""The README's pictures of a model that was trained on photos. On them nobody can be recognised: means, and numbers."""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from vitpe.files import write_atomic
from vitpe.runs.find import weights_file
from vitpe.runs.metadata import read_info

NUM_CHECKPOINTS = 8
WIDTH = 1471
"""Of the sheets of maps, in pixels."""


def write_trained_pictures(run: Path, data: Path, folder: Path) -> None:
    """mean_maps.jpg, query_maps.jpg (of a model with attribute queries), pe_probe.png and pe_probe_history.png.

    run: with whole models in its history; in the pictures its name is that of its last two folders. Takes some ten
    minutes on two cores.
    """
    run, data = run.resolve(), data.resolve()

    def vitpe(*arguments: object) -> None:
        command = [sys.executable, "-m", "vitpe", *map(str, arguments), "--data", str(data)]
        subprocess.run(command, cwd=run.parent.parent, check=True, stdout=subprocess.DEVNULL)

    name = Path(run.parent.name) / run.name
    with tempfile.TemporaryDirectory() as made:
        out = Path(made)
        probe = ("viz-pe", name, "--probe", "--no-stills", "--out")
        sheets = {"mean_maps.jpg": "occlusion"}
        if read_info(weights_file(run)).model.global_pool == "queries":
            sheets["query_maps.jpg"] = "attention"
        for target, method in sheets.items():
            vitpe("eval", name, "--maps", out / "maps.png", "--map-method", method)
            with Image.open(out / "maps.png") as sheet:
                small = sheet.resize((WIDTH, round(WIDTH * sheet.height / sheet.width)), Image.Resampling.LANCZOS)
            small.convert("RGB").save(out / target, quality=88)
            write_atomic(folder / target, (out / target).read_bytes())
        vitpe(*probe, out / "best")
        vitpe(*probe, out / "history", "--probe-checkpoints", NUM_CHECKPOINTS)
        for made_in, target in (("best", "pe_probe.png"), ("history", "pe_probe_history.png")):
            write_atomic(folder / target, (out / made_in / target).read_bytes())
