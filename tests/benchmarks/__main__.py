"""make bench: every benchmark in one run, a table on stdout and benchmarks.json beside it.

CelebA is looked for in $VITPE_CELEBA; without it a folder of drawn faces in CelebA's format stands in.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks import decoding, end_to_end, gpu, model_speed, predicting, single_answer, startup
from tests.benchmarks.measure import Row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "suites", nargs="*", help="startup, single, model, decoding, predicting, end_to_end, gpu; all by default"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        celeba = Path(os.environ.get("VITPE_CELEBA", ""))
        if not os.environ.get("VITPE_CELEBA"):
            from vitpe.data.drawn_faces import write_celeba_folder

            celeba = Path(folder) / "drawn"
            write_celeba_folder(celeba, num_train=3000, num_valid=64, num_test=8)
        suites = {
            "startup": startup.measure,
            "single": single_answer.measure,
            "model": model_speed.measure,
            "decoding": lambda: decoding.measure(celeba),
            "predicting": lambda: predicting.measure(celeba),
            "end_to_end": lambda: end_to_end.measure(celeba),
            "gpu": lambda: gpu.measure(celeba),
        }
        rows = [row for name in arguments.suites or suites for row in suites[name]()]
    machine = {"processor": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    arguments.out.write_text(json.dumps({"machine": machine, "rows": [row.to_json() for row in rows]}, indent=2) + "\n")
    Console().print(table(rows), ", ".join(f"{key} {value}" for key, value in machine.items()))


def table(rows: list[Row]) -> Table:
    shown = Table("suite", "name", "unit", title="medians; ratio is vitpe / this one, repeat by repeat")
    for heading in ("median", "lowest", "highest", "ratio", "n"):
        shown.add_column(heading, justify="right")
    for row in rows:
        numbers = (statistics.median(row.rates), min(row.rates), max(row.rates), row.ratio)
        shown.add_row(row.suite, row.name, row.unit, *(f"{number:,.2f}" for number in numbers), str(len(row.rates)))
    return shown


if __name__ == "__main__":
    main()
