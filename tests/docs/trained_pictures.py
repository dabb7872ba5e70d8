"""The README's pictures of a model that was trained on photos. On them nobody can be recognised: means, and numbers."""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from vitpe.files import write_atomic

NUM_CHECKPOINTS = 8
WIDTH = 1471
"""Of mean_maps.jpg, in pixels."""


def write_trained_pictures(run: Path, data: Path, folder: Path) -> None:
    """mean_maps.jpg, pe_probe.png and pe_probe_history.png, of a run with whole models in its history: some ten minutes
    on two cores. The run is named in them as runs/celeba, its last two folders.
    """
    run, data = run.resolve(), data.resolve()

    def vitpe(*arguments: object) -> None:
        command = [sys.executable, "-m", "vitpe", *map(str, arguments), "--data", str(data)]
        subprocess.run(command, cwd=run.parent.parent, check=True, stdout=subprocess.DEVNULL)

    name = Path(run.parent.name) / run.name
    with tempfile.TemporaryDirectory() as made:
        out = Path(made)
        probe = ("viz-pe", name, "--probe", "--no-stills", "--out")
        vitpe("eval", name, "--maps", out / "maps.png")
        vitpe(*probe, out / "best")
        vitpe(*probe, out / "history", "--probe-checkpoints", NUM_CHECKPOINTS)
        with Image.open(out / "maps.png") as sheet:
            small = sheet.resize((WIDTH, round(WIDTH * sheet.height / sheet.width)), Image.Resampling.LANCZOS)
        small.convert("RGB").save(out / "maps.jpg", quality=88)
        for source, target in (
            ("maps.jpg", "mean_maps.jpg"),
            ("best/pe_probe.png", "pe_probe.png"),
            ("history/pe_probe_history.png", "pe_probe_history.png"),
        ):
            write_atomic(folder / target, (out / source).read_bytes())
