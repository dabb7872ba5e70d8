"""What several tests share: a tiny dataset, a tiny configuration, and the command line as a user sees it."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitpe.config import ModelConfig, RunConfig, with_values

REPOSITORY = Path(__file__).parent.parent.parent
COLOURS = ("Red", "Green", "Blue", "Bright")
"""Attributes of the tiny dataset: which colour channels are strong, and whether most of them are."""

TINY_VALUES: dict[str, Any] = {
    "model.img_size": [16, 24],
    "model.patch_size": 8,
    "model.embed_dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.mlp_ratio": 4.0,
    "model.drop_path_rate": 0.0,
    "model.stem_width": 0,
    "model.global_pool": "token",
    "train.batch_size": 8,
    "train.steps": 12,
    "train.num_checkpoints": 4,
    "train.num_evals": 3,
    "train.muon_lr": 0.02,
    "train.adamw_lr": 1e-3,
    "train.weight_decay": 0.1,
    "train.warmup_fraction": 0.05,
    "train.ema_decay": 0.0,
    "train.label_smoothing": 0.0,
    "train.whiten": False,
    "train.patch_keep": 1.0,
    "train.precision": "fp32",
    "train.compile": "off",
}
"""A model of a few thousand parameters on a 2 × 3 grid, trained in well under a second; no recipe of a preset is left
in it."""


SMALL = ModelConfig(img_size=(16, 24), patch_size=8, num_classes=3, embed_dim=16, depth=2, num_heads=2)
"""A model on a grid of 2 × 3, for what needs no run."""


def write_celeba(folder: Path, num_train: int = 24, num_valid: int = 8, num_test: int = 8, seed: int = 0) -> Path:
    """A folder in CelebA's layout: noisy images whose labels (COLOURS) can be told from their colour."""
    rng = np.random.default_rng(seed)
    images = folder / "img_align_celeba"
    images.mkdir(parents=True)
    rows, partition = [], []
    for number in range(1, num_train + num_valid + num_test + 1):
        name = f"{number:06d}.jpg"
        strong = rng.integers(0, 2, 3)
        labels = [*strong, int(strong.sum() >= 2)]
        pixels = np.clip(rng.normal(60 + 130 * strong, 12, (218, 178, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / name, quality=60)
        rows.append(f"{name}  {' '.join(f'{2 * label - 1:2d}' for label in labels)}")
        split = 0 if number <= num_train else 1 if number <= num_train + num_valid else 2
        partition.append(f"{name} {split}")
    header = [str(len(rows)), " ".join(COLOURS)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(header + rows) + "\n")
    (folder / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return folder


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiny_config(data: Path | str, **values: Any) -> RunConfig:
    """TINY_VALUES on `data`; more values as section__name=value: train__steps=3."""
    changes = {key.replace("__", "."): value for key, value in values.items()}
    return with_values(RunConfig(), TINY_VALUES | {"data.data": str(data)} | changes)


def tiny_options(data: Path | str, **values: Any) -> list[str]:
    """`tiny_config` as options of `vitpe train`."""
    changes = {key.replace("__", "."): value for key, value in values.items()}
    settings = [f"--set={key}={json.dumps(value)}" for key, value in (TINY_VALUES | changes).items()]
    return ["--data", str(data), "--device", "cpu", *settings]


def log_rows(run: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv."""
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@dataclass
class Recorder:
    """A Reporter (see training.loop) that remembers what it was told."""

    notes: list[str] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    best_steps: list[int] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def doing(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        yield lambda count: None

    def prepared(self, done: int, total: int) -> None:
        assert 0 < done <= total

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        assert 0 <= step <= num_steps
        if loss is not None:
            self.losses[step] = loss

    def scored(self, step: int, scores: dict[str, float], best: bool) -> None:
        self.scores[step] = scores
        if best:
            self.best_steps.append(step)


def train_tiny(data: Path | str, folder: Path, *, resume: bool = False, **values: Any) -> Recorder:
    """Train `tiny_config(data, **values)` into `folder` in this process, on the CPU."""
    from vitpe.training.train import train

    recorder = Recorder()
    train(tiny_config(data, **values), folder, torch.device("cpu"), recorder, resume=resume)
    return recorder


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit code and what it wrote."""

    code: int
    stdout: str
    stderr: str


def run_vitpe(*arguments: str | Path, cwd: Path | None = None, timeout: float = 120, **environment: str) -> Finished:
    """`python -m vitpe ARGUMENTS` in a process of its own, away from a terminal, on one thread."""
    return run_python("-m", "vitpe", *arguments, cwd=cwd, timeout=timeout, **environment)


def run_python(*arguments: str | Path, cwd: Path | None = None, timeout: float = 120, **environment: str) -> Finished:
    """The tests' own interpreter with ARGUMENTS; the repository's packages can be imported from any folder."""
    with start_python(*arguments, cwd=cwd, **environment) as process:
        stdout, stderr = process.communicate(timeout=timeout)
    return Finished(process.returncode, stdout, stderr)


def start_vitpe(*arguments: str | Path, **environment: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """`python -m vitpe ARGUMENTS`, still running; it is killed where the context ends."""
    return start_python("-m", "vitpe", *arguments, **environment)


@contextmanager
def start_python(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def contents(folder: Path, ignore: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file below `folder` by its relative name, with its bytes, in which a run's random id is blanked."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    config = folder / "config.json"
    run_id = (json.loads(config.read_bytes()).get("run") or {}).get("id", "") if config.exists() else ""
    found = {name: path.read_bytes() for name, path in files.items() if path.name not in ignore}
    return {name: data.replace(run_id.encode(), b"-" * len(run_id)) if run_id else data for name, data in found.items()}
