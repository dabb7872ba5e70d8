"""Thresholds and calibration, fitted on a checkpoint's answers and written into its file."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitpe.errors import VitpeError
from vitpe.files import stamp_at
from vitpe.inference.eval_options import EvalOptions
from vitpe.inference.eval_result import EvalResult
from vitpe.inference.trained_on import run_of
from vitpe.metrics.scores import score
from vitpe.metrics.thresholds import CRITERIA, DEFAULT_THRESHOLD, calibrate, sigmoid, tune_thresholds
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import load_checkpoint, save_checkpoint
from vitpe.runs.metadata import CheckpointInfo
from vitpe.text import some


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint as it was when it was read. stamp: tells its file from one that took its place later."""

    path: Path
    model: VisionTransformer
    info: CheckpointInfo
    stamp: tuple[int, ...]

    @staticmethod
    def of(path: Path) -> "LoadedCheckpoint":
        """Read it; VitpeError when that cannot be done."""
        stamp = stamp_at(path)  # before, so that what comes later is noticed
        return LoadedCheckpoint(path, *load_checkpoint(path), stamp)


def fit(
    loaded: LoadedCheckpoint, answers: EvalResult, options: EvalOptions, tell: Callable[[str], None]
) -> LoadedCheckpoint:
    """Fit thresholds and calibration on the checkpoint's answers and write both into its file.

    Calibration is affine in the logits, so it becomes part of the head and every reader of the checkpoint has it.
    Thresholds belong to the probabilities that they were tuned on: calibration alone sets them back to 0.5.
    tell: called with what thresholds that are tuned for another score cost in accuracy.
    Raises VitpeError, with nothing written, when some of the checkpoint's attributes have no labels, when a run writes
    to its folder, and when the file is not any more what was read.
    """
    model, info = loaded.model.cpu(), loaded.info
    if len(answers.columns) < len(info.attributes):
        missing = [name for name in info.attributes if name not in answers.attributes]
        raise VitpeError(f"{answers.split} has no labels for {some(missing)}", "fitting needs all attributes' labels")
    logits = answers.logits
    if options.calibrate is not None:
        calibration = calibrate(logits, answers.labels, options.calibrate)
        scale = torch.from_numpy(calibration.scale).float()
        with torch.no_grad():
            for weight in model.head_weights():
                weight.mul_(scale[:, None])
            model.head.bias.mul_(scale).add_(torch.from_numpy(calibration.offset).float())
        logits = calibration.apply(logits)
        info = replace(
            info,
            calibration_split=answers.split,
            calibration_method=options.calibrate,
            thresholds=(DEFAULT_THRESHOLD,) * len(info.attributes),
            thresholds_split=None,
            thresholds_criterion=None,
        )
    if options.tunes:
        criterion = options.criterion or CRITERIA[0]
        thresholds = tune_thresholds(sigmoid(logits), answers.labels, criterion)
        info = replace(
            info,
            thresholds=tuple(thresholds.tolist()),
            thresholds_split=answers.split,
            thresholds_criterion=criterion,
        )
        if criterion != "accuracy":
            tell(_price_of_tuning(sigmoid(logits), answers, thresholds))
    with held(loaded.path):
        if stamp_at(loaded.path) != loaded.stamp:
            raise VitpeError(f"{loaded.path} has changed since it was read; it is left as it is", "start again")
        save_checkpoint(loaded.path, model.state_dict(), info)
        return replace(loaded, info=info, stamp=stamp_at(loaded.path))


def _price_of_tuning(probs: NDArray[np.float64], answers: EvalResult, thresholds: NDArray[np.float64]) -> str:
    """What these thresholds change beside those of 0.5, in per cent, on the images that they were fitted on."""

    def means(thresholds: NDArray[np.float64]) -> tuple[float, float]:
        found = score(probs, answers.labels, answers.attributes, thresholds, num_resamples=0).means
        return 100 * found["accuracy"].value, 100 * found["f1"].value

    (accuracy, f1), (new_accuracy, new_f1) = means(np.full(len(thresholds), DEFAULT_THRESHOLD)), means(thresholds)
    return (
        f"on {answers.split}, with these thresholds in place of 0.5: accuracy {new_accuracy:.1f} where it was"
        f" {accuracy:.1f}, F1 {new_f1:.1f} where it was {f1:.1f}; for accuracy: --criterion accuracy"
    )


def held(checkpoint: Path) -> AbstractContextManager[None]:
    """Within, no run writes to the checkpoint's folder; VitpeError when one does."""
    run = run_of(checkpoint)
    if run is None or not run.lock.exists():  # nothing has been trained there
        return nullcontext()
    return run.lock_existing(
        "wait until it has ended, or fit a copy of the checkpoint, elsewhere and with --data FOLDER"
    )
