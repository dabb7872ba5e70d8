"""The memory that training takes on a GPU beside what is reckoned before: python -m tests.noop_gpu.memory

On the GPU that computes nothing every tensor is allocated as on any other, by torch's own allocator, so that the peak
is the real one, of tensors: what the allocator cannot use, and the GPU's libraries, come on top. Models are trained for
a few steps, the last of which are CUDA graphs, in bfloat16 on batches of the preset.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.helpers import write_celeba
from tests.noop_gpu import Command, build, run
from vitpe.config import PRESETS, TrainConfig
from vitpe.training.memory_needs import training_needs

_NUM_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="all by default")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    table = Table("preset", "patches", "at once", "reckoned", "measured", "measured / reckoned", title="GB")
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        celeba = write_celeba(Path(folder) / "celeba", num_train=256, num_valid=8, num_test=8)
        for preset in arguments.presets or PRESETS:
            for values in ({}, {"patch_keep": 1.0}, {"patch_keep": 1.0, "micro_batch_size": 16}):
                train = replace(PRESETS[preset].train, compile="on" if arguments.compile else "off", **values)
                reckoned, measured = measure(library, celeba, preset, train)
                at_once = train.micro_batch_size or train.batch_size
                numbers = (f"{number / 1e9:.2f}" for number in (reckoned, measured))
                table.add_row(preset, f"{train.patch_keep:g}", str(at_once), *numbers, f"{measured / reckoned:.2f}")
    Console(width=100).print(table)


def measure(library: Path, celeba: Path, preset: str, train: TrainConfig) -> tuple[int, int]:
    """Bytes that are reckoned, and those of all tensors at the peak."""
    train = replace(train, precision="bf16", num_evals=1, num_checkpoints=1, steps=_NUM_STEPS)
    settings: Mapping[str, Any] = {
        name: getattr(train, name)
        for name in ("precision", "num_evals", "num_checkpoints", "patch_keep", "compile", "micro_batch_size")
    }
    options = ["train", "--data", celeba, "--device", "cuda", "--store", "memory", "--preset", preset, "--run", "run"]
    options += ["--steps", str(train.steps), *(f"--set=train.{key}={json.dumps(v)}" for key, v in settings.items())]
    with tempfile.TemporaryDirectory() as folder:
        (done,) = run(library, {"train": Command(options)}, Path(folder), NOOP_GPU_ZEROS="1")
    if done["train"].code:
        raise RuntimeError(done["train"].stderr)
    model = replace(PRESETS[preset].model, num_classes=4)
    return training_needs(model, train, train.batch_size, "cuda").total, done["train"].peak_bytes


if __name__ == "__main__":
    main()
