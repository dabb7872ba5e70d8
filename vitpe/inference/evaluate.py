"""Checkpoint + data → scores: opens both, runs the model, and fits what is fitted on valid."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vitpe.config import DRAWN_FACES, DataConfig
from vitpe.data.batches import Batches
from vitpe.data.samples import Samples
from vitpe.data.sources import open_samples
from vitpe.data.storage import ImageStore
from vitpe.errors import UsageError, VitpeError
from vitpe.inference.predictions import EvalInfo
from vitpe.inference.trained_on import check_same_data, data_of, run_of
from vitpe.metrics.comparison import Comparison, compare
from vitpe.metrics.scores import Scores, score
from vitpe.metrics.thresholds import (
    CRITERIA,
    DEFAULT_THRESHOLD,
    Criterion,
    Method,
    calibrate,
    sigmoid,
    tune_thresholds,
)
from vitpe.model.inputs import PixelClassifier, classify_split
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import load_checkpoint, save_checkpoint
from vitpe.runs.find import kind_of, no_single_model
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import CheckpointInfo, read_info

Split = Literal["train", "valid", "test"]
FIT_SPLIT: Final = "valid"
"""Where thresholds and calibration are fitted, and so where they are not to be reported."""
_BATCH_SIZE: Final = 64


class EvalReporter(Protocol):
    """Who is told how it goes."""

    def start(self, description: str, total: int) -> Callable[[int], None]:
        """`total` things begin; what is returned is called with how many more are done."""

    def note(self, text: str) -> None:
        """One line that the user should know."""


@dataclass(frozen=True)
class EvalOptions:
    """data, labels: as in DataConfig, None for what the run was trained on. split: train, valid or test.

    thresholds: "tune", or a number for all attributes, or None for the checkpoint's own. criterion: of tuning, None
    for the first of CRITERIA. calibrate: None for not at all.
    Raises UsageError for combinations that mean nothing, and when what is fitted would be reported where it was.
    """

    data: str | None = None
    labels: Path | None = None
    split: Split = "valid"
    thresholds: str | None = None
    criterion: Criterion | None = None
    calibrate: Method | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and self.data is None:
            raise UsageError(f"--labels {self.labels} without --data", "name the folder of the images: --data FOLDER")
        if self.criterion is not None and not self.tunes:
            raise UsageError(f"--criterion {self.criterion} without tuning", "tune thresholds with: --thresholds tune")
        if self.fits and self.split == FIT_SPLIT:
            raise UsageError(
                f"what is fitted on {FIT_SPLIT} must not be reported on {FIT_SPLIT}", "report on test: --split test"
            )
        if not self.tunes and self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.thresholds} is not a probability", "choose one from 0 to 1, or tune")

    @property
    def tunes(self) -> bool:
        """Whether thresholds are fitted."""
        return self.thresholds == "tune"

    @property
    def fits(self) -> bool:
        """Whether anything is."""
        return self.tunes or self.calibrate is not None

    @property
    def threshold(self) -> float | None:
        """The number given for all attributes, if one was."""
        if self.thresholds is None or self.tunes:
            return None
        try:
            return float(self.thresholds)
        except ValueError:
            raise UsageError(f"--thresholds {self.thresholds!r}", "choose 'tune', or a number from 0 to 1") from None


@dataclass(frozen=True)
class EvalResult:
    """A checkpoint's logits (n, A) on a split, with the labels (n, A), for those of its attributes that have labels.

    columns: (A,) which of the checkpoint's attributes those are. source, notes: of the images, as their reader says.
    threshold: for all attributes, None for the checkpoint's own.
    """

    path: Path
    info: CheckpointInfo
    split: str
    source: str
    columns: tuple[int, ...]
    logits: NDArray[np.float64]
    labels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()
    threshold: float | None = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """The A names."""
        return tuple(self.info.attributes[column] for column in self.columns)

    def probs(self) -> NDArray[np.float64]:
        """(n, A) in [0, 1]."""
        return sigmoid(self.logits)

    def thresholds(self) -> NDArray[np.float64]:
        """(A,) the one given, else the checkpoint's, but 0.5 on the split that these were tuned on."""
        if self.threshold is not None:
            return np.full(len(self.columns), self.threshold)
        if self.tuned_here():
            return np.full(len(self.columns), DEFAULT_THRESHOLD)
        return np.array(self.info.thresholds)[list(self.columns)]

    def tuned_here(self) -> bool:
        """Whether the checkpoint's thresholds were tuned on this split."""
        return self.info.thresholds_split == self.split

    def scores(self) -> Scores:
        """At `thresholds`."""
        return score(self.probs(), self.labels, self.attributes, self.thresholds())

    def describe(self) -> EvalInfo:
        """What was scored, in words."""
        info = self.info
        thresholds = thresholds_in_words(info)
        if self.threshold is not None or self.tuned_here():
            thresholds = f"{self.thresholds()[0]:g}"
        return EvalInfo(str(self.path), self.split, self.source, info.step, thresholds, calibration_in_words(info))


def thresholds_in_words(info: CheckpointInfo) -> str:
    """ "tuned on valid for f1", or "0.5"."""
    if info.thresholds_split is None:
        return str(DEFAULT_THRESHOLD)
    return f"tuned on {info.thresholds_split} for {info.thresholds_criterion}"


def calibration_in_words(info: CheckpointInfo) -> str | None:
    """ "platt on valid", or None."""
    return None if info.calibration_split is None else f"{info.calibration_method} on {info.calibration_split}"


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
        stamp = _stamp(path)  # before, so that what comes later is noticed
        return LoadedCheckpoint(path, *load_checkpoint(path), stamp)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def evaluate(
    checkpoints: Sequence[Path], options: EvalOptions, device: torch.device, reporter: EvalReporter
) -> list[EvalResult]:
    """Each checkpoint's answers on the same images; first, what is to be fitted is fitted into its file.

    Raises VitpeError for checkpoints or data that cannot be read and when these share no attribute, UsageError when
    the checkpoints were trained on different data and none were named.
    """
    paths = [find_checkpoint(path) for path in checkpoints]
    infos = [read_info(path) for path in paths]
    if options.data is not None:
        data = DataConfig(data=options.data, labels=None if options.labels is None else str(options.labels))
    else:
        found = [data_of(path, info, reporter.note) for path, info in zip(paths, infos, strict=True)]
        data = found[0]
        if data != found[-1]:
            raise UsageError(
                f"{paths[0]} was trained on {data.data}, {paths[-1]} on {found[-1].data}",
                "name the images to compare them on: --data FOLDER",
            )
    if options.fits:
        for path in paths:
            with _held(path):
                pass  # to say at once what would be said after minutes
    if options.split == "test":
        reporter.note("test is for the final report: choose models on valid")
    opened = cache(partial(open_samples, data))
    answers = []
    for path in paths:
        loaded = LoadedCheckpoint.of(path)
        size = loaded.info.model.img_size
        if options.data is None:
            check_same_data(path, data, partial(opened, FIT_SPLIT, size))
        if options.fits:
            loaded = fit(loaded, answer(loaded, FIT_SPLIT, opened(FIT_SPLIT, size), device, reporter), options)
            info = loaded.info
            thresholds, calibration = thresholds_in_words(info), calibration_in_words(info) or "none"
            reporter.note(f"{path} now has thresholds {thresholds}, calibration {calibration}")
        given = answer(loaded, options.split, opened(options.split, size), device, reporter)
        answers.append(replace(given, threshold=options.threshold))
    for line in dict.fromkeys(note for given in answers for note in _notes(given)):
        reporter.note(line)
    return answers


def _notes(given: EvalResult) -> Iterator[str]:
    info, path = given.info, given.path
    yield from given.notes
    if info.data_source == DRAWN_FACES and given.source == DRAWN_FACES:
        yield "these are drawn faces: the scores say nothing about photos"
    elif info.data_source == DRAWN_FACES:
        yield f"{path} was trained on drawn faces, not on photos"
    if given.tuned_here() and given.threshold is None:
        thresholds = thresholds_in_words(info)
        yield f"{path} has thresholds {thresholds}, so {given.split} is scored at 0.5; --split test uses them"
    if info.calibration_split == given.split:
        yield f"{path} was calibrated on {given.split}, which flatters its Brier score and calibration error here"
    missing = [name for name in info.attributes if name not in given.attributes]
    if missing:
        shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        yield f"{len(missing)} of {len(info.attributes)} attributes have no labels here and are left out: {shown}"


def find_checkpoint(path: Path) -> Path:
    """A checkpoint's path from itself or from a run's folder; VitpeError when there is none."""
    match kind_of(path):
        case "folder":
            best = RunFolder(path).best
            if kind_of(best) != "file":
                raise no_single_model(path)
            return best
        case None:
            raise VitpeError(f"no checkpoint {path}", "train one first: vitpe train")
    return path


def answer(
    loaded: LoadedCheckpoint, split: str, samples: Samples, device: torch.device, reporter: EvalReporter
) -> EvalResult:
    """Run the model on the samples, which are of `split`; VitpeError when they have no attribute in common."""
    model, info = loaded.model, loaded.info
    columns = tuple(i for i, name in enumerate(info.attributes) if name in samples.attributes)
    if not columns:
        raise VitpeError(
            f"the data has labels for {_some(samples.attributes)}, {loaded.path} answers {_some(info.attributes)}",
            "at least one attribute must have the same name in both",
        )
    batches = Batches(ImageStore(samples, device, "disk"), info.model.img_size, _BATCH_SIZE)
    on_progress = reporter.start(f"scoring {split}", len(samples.names))
    classifier = PixelClassifier(model.to(device), info.mean, info.std)
    logits, truth = classify_split(classifier, batches.once(), on_progress)
    labelled = [samples.attributes.index(info.attributes[column]) for column in columns]
    return EvalResult(
        loaded.path,
        info,
        split,
        samples.source,
        columns,
        logits[:, list(columns)],
        truth[:, labelled],
        samples.notes,
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def fit(loaded: LoadedCheckpoint, answers: EvalResult, options: EvalOptions) -> LoadedCheckpoint:
    """Fit thresholds and calibration on the checkpoint's answers and write both into its file.

    Calibration is affine in the logits, so it becomes part of the head and every reader of the checkpoint has it.
    Thresholds belong to the probabilities that they were tuned on: calibration alone sets them back to 0.5.
    Raises VitpeError, with nothing written, when some of the checkpoint's attributes have no labels, when a run writes
    to its folder, and when the file is not any more what was read.
    """
    model, info = loaded.model.cpu(), loaded.info
    if len(answers.columns) < len(info.attributes):
        missing = [name for name in info.attributes if name not in answers.attributes]
        raise VitpeError(f"{answers.split} has no labels for {_some(missing)}", "fitting needs all attributes' labels")
    logits = answers.logits
    if options.calibrate is not None:
        calibration = calibrate(logits, answers.labels, options.calibrate)
        scale = torch.from_numpy(calibration.scale).float()
        with torch.no_grad():
            model.head.weight.mul_(scale[:, None])
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
    with _held(loaded.path):
        if _stamp(loaded.path) != loaded.stamp:
            raise VitpeError(f"{loaded.path} has changed since it was read; it is left as it is", "start again")
        save_checkpoint(loaded.path, model.state_dict(), info)
        return replace(loaded, info=info, stamp=_stamp(loaded.path))


def _held(checkpoint: Path) -> AbstractContextManager[None]:
    """Within, no run writes to the checkpoint's folder; VitpeError when one does."""
    run = run_of(checkpoint)
    if run is None or not run.lock.exists():  # nothing has been trained there
        return nullcontext()
    return run.lock_existing(
        "wait until it has ended, or fit a copy of the checkpoint, elsewhere and with --data FOLDER"
    )


def compare_results(first: EvalResult, second: EvalResult) -> Comparison:
    """Second against first on the same images; VitpeError when they answered different questions."""
    if first.attributes != second.attributes or not np.array_equal(first.labels, second.labels):
        raise VitpeError(
            f"{first.path} answers {_some(first.attributes)}, {second.path} answers {_some(second.attributes)}",
            "compare models of the same attributes and images",
        )
    return compare(
        first.probs(), second.probs(), first.labels, first.attributes, first.thresholds(), second.thresholds()
    )
