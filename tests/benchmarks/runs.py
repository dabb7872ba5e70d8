"""Runs that benchmarks train, once."""

import csv
import subprocess
import sys
from pathlib import Path


def trained(run: Path, *options: str) -> Path:
    """The folder of a finished run of `vitpe train` with these options; one that was cut goes on, one that is there
    already is not trained again.
    """
    resume = ["--resume"] if (run / "config.json").exists() else []  # a finished run only says that it is
    command = [sys.executable, "-m", "vitpe", "train", "--run", str(run), *options, *resume]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return run


def last_scores(run: Path) -> dict[str, float]:
    """On valid, at the end: "accuracy" and "mean_average_precision"."""
    with (run / "metrics.csv").open(newline="") as file:
        *_, row = csv.DictReader(file)
    return {name: float(row[f"valid_{name}"]) for name in ("accuracy", "mean_average_precision")}
