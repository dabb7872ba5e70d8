"""`vitpe train --preset reference` on a GPU against the same steps on a fixed batch that is there already.

Both are the whole command in a process of its own, in the precision that it chooses; the second takes its first batch
again and again. So their ratio tells what reading, cropping and sending images costs. Images a second are those of
metrics.csv, without the first quarter of the run, in which the model is compiled.

    python -m tests.benchmarks gpu              as a user has it; needs a GPU
    python -m tests.benchmarks.gpu train …      one run on a fixed batch
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import torch

from tests.benchmarks.measure import Row, rows
from tests.helpers import log_rows
from vitpe.data.batch import Batch
from vitpe.data.batches import Batches

FIXED = "the same batch again and again"


def measure(
    celeba: Path, device: str = "cuda", preset: str = "reference", steps: int = 2000, repeats: int = 3
) -> list[Row]:
    """No rows, and a line that says so, where there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu: skipped, no GPU here", file=sys.stderr)
        return []
    name = torch.cuda.get_device_name() if device == "cuda" else device
    rates: dict[str, list[float]] = {"vitpe": [], FIXED: []}
    for _ in range(repeats):  # in turn, so that the machine's mood falls on both
        for contender, module in {"vitpe": "vitpe", FIXED: "tests.benchmarks.gpu"}.items():
            rates[contender].append(_train(module, celeba, device, preset, steps))
    return rows(f"training, {preset}, {name}", "images/s", rates)


def _train(module: str, celeba: Path, device: str, preset: str, steps: int) -> float:
    """Images a second over the last three quarters of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", module, "train", "--data", str(celeba), "--run", str(run)]
        command += ["--device", device, "--preset", preset, "--steps", str(steps), "--num-valid", "64"]
        command += ["--set", "train.num_evals=1", "--set", "train.num_checkpoints=2"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        log = [row for row in log_rows(run) if row["images_per_second"] and int(row["step"]) > steps / 4]
    return statistics.harmonic_mean([float(row["images_per_second"]) for row in log])


class FixedBatch(Batches):
    """The first batch of training for ever."""

    def from_step(self, step: int) -> Generator[Batch, None, None]:
        batches = super().from_step(step)
        batch = next(batches)
        batches.close()
        while True:
            yield batch


def main() -> None:
    from vitpe.__main__ import main as vitpe
    from vitpe.training import train as run

    run.Batches = FixedBatch  # type: ignore[misc]
    vitpe()


if __name__ == "__main__":
    main()
