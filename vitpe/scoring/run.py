"""Checkpoint + data → scores: opens both, runs the model, and fits what is fitted on valid."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from vitpe.config import DRAWN_FACES, DataConfig
from vitpe.data.batches import Batches
from vitpe.data.sources import open_samples
from vitpe.errors import UsageError, VitpeError
from vitpe.scoring.compare import Comparison, compare
from vitpe.scoring.evaluate import predict_split
from vitpe.scoring.metrics import Scores, score
from vitpe.scoring.records import Subject
from vitpe.scoring.thresholds import CRITERIA, METHODS, calibrate, sigmoid, tune_thresholds
from vitpe.training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from vitpe.training.run_folder import RunFolder

_BATCH_SIZE: Final = 64
StartProgress = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Answers:
    """A checkpoint's logits (n, A) on a split, with the labels (n, A)."""

    path: Path
    info: CheckpointInfo
    split: str
    logits: NDArray[np.float64]
    labels: NDArray[np.uint8]

    def probs(self) -> NDArray[np.float64]:
        """(n, A) in [0, 1]."""
        return sigmoid(self.logits)

    def scores(self) -> Scores:
        """At the checkpoint's thresholds."""
        return score(self.probs(), self.labels, self.info.attributes, np.array(self.info.thresholds))

    def subject(self) -> Subject:
        """What was scored, in words."""
        info = self.info
        return Subject(str(self.path), self.split, info.data_source, info.step, info.thresholds_from, info.calibration)


def find_checkpoint(path: Path) -> Path:
    """A checkpoint's path from itself or from a run's folder; VitpeError when there is none."""
    if path.is_dir():
        best = RunFolder(path).best
        if not best.exists():
            raise VitpeError(f"{path} holds no scored run (no {best.name})", "train one first: vitpe train")
        return best
    if not path.exists():
        raise VitpeError(f"no checkpoint {path}", "train one first: vitpe train")
    return path


def data_for(checkpoint: Path, info: CheckpointInfo, data: str | None, labels: Path | None) -> DataConfig:
    """Where to take images from: what was asked for, else what the run was trained on."""
    if data is not None:
        return DataConfig(data=data, labels=None if labels is None else str(labels))
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / "config.json").exists():
            return RunFolder(folder).read_config().data
    if info.data_source == DRAWN_FACES:
        return DataConfig()
    raise UsageError(f"{checkpoint} does not say where its images are", "name the folder: --data FOLDER")


def answer(
    checkpoint: Path,
    split: str,
    data: str | None,
    labels: Path | None,
    device: torch.device,
    start_progress: StartProgress,
) -> Answers:
    """Run the checkpoint on a split of the data.

    Raises VitpeError for a checkpoint or data that cannot be read, and when the data lacks one of its attributes.
    """
    model, info = load_checkpoint(checkpoint)
    samples = open_samples(data_for(checkpoint, info, data, labels), split, info.model.img_size)
    missing = [name for name in info.attributes if name not in samples.attributes]
    if missing:
        raise VitpeError(
            f"the data has no attribute {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}",
            f"{checkpoint} was trained on {len(info.attributes)} attributes; the labels must name them all",
        )
    columns = [samples.attributes.index(name) for name in info.attributes]
    batches = Batches(samples, crop_size=info.model.img_size, batch_size=_BATCH_SIZE, device=device, store="disk")
    on_progress = start_progress(f"scoring {split}", len(samples.names))
    logits, truth = predict_split(model.to(device), batches.once(), info.mean, info.std, on_progress)
    return Answers(checkpoint, info, split, logits, truth[:, columns])


def fit(answers: Answers, criterion: str | None, method: str | None) -> CheckpointInfo:
    """Fit thresholds and calibration on these answers (of valid) and write both into the checkpoint.

    Calibration is affine in the logits, so it becomes part of the head and every reader of the checkpoint has it.
    Raises UsageError for an unknown criterion or method.
    """
    if criterion is not None and criterion not in CRITERIA:
        raise UsageError(f"unknown criterion {criterion!r}", f"criteria are {', '.join(CRITERIA)}")
    if method is not None and method not in METHODS:
        raise UsageError(f"unknown calibration {method!r}", f"methods are {', '.join(METHODS)}")
    model, info = load_checkpoint(answers.path)
    logits = answers.logits
    if method is not None:
        calibration = calibrate(logits, answers.labels, method)
        scale = torch.from_numpy(calibration.scale).float()
        with torch.no_grad():
            model.head.weight.mul_(scale[:, None])
            model.head.bias.mul_(scale).add_(torch.from_numpy(calibration.offset).float())
        logits = calibration.apply(logits)
        info = replace(info, calibration=f"{method} on {answers.split}")
    if criterion is not None:
        thresholds = tune_thresholds(sigmoid(logits), answers.labels, criterion)
        info = replace(
            info, thresholds=tuple(thresholds.tolist()), thresholds_from=f"tuned on {answers.split} for {criterion}"
        )
    save_checkpoint(answers.path, model.state_dict(), info)
    return info


def compare_answers(first: Answers, second: Answers) -> Comparison:
    """Second against first on the same images; VitpeError when they answered different questions."""
    if first.info.attributes != second.info.attributes or first.labels.shape != second.labels.shape:
        raise VitpeError(
            f"{first.path} and {second.path} have different attributes or images", "compare models of the same data"
        )
    return compare(
        first.probs(),
        second.probs(),
        first.labels,
        first.info.attributes,
        np.array(first.info.thresholds),
        np.array(second.info.thresholds),
    )
