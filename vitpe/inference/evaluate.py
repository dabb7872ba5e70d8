"""Checkpoint + data → scores: opens both, runs the model, and fits what is fitted on valid."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vitpe.config import Precision
from vitpe.data.batches import Batches
from vitpe.data.samples import Samples
from vitpe.data.sources import describe, open_samples
from vitpe.data.storage import ImageStore
from vitpe.errors import VitpeError
from vitpe.inference.answers import Labels
from vitpe.inference.eval_options import FIT_SPLIT, EvalPlan
from vitpe.inference.eval_result import EvalResult, calibration_in_words, thresholds_in_words
from vitpe.inference.fit import LoadedCheckpoint, fit, held
from vitpe.inference.groups import check_terms
from vitpe.inference.head import refit_head
from vitpe.inference.mean_maps import mean_maps
from vitpe.inference.trained_on import check_out_of_sample, check_same_data
from vitpe.model.inputs import classify_split, predicting_classifier
from vitpe.model.vit import VisionTransformer
from vitpe.runs.metadata import CheckpointInfo
from vitpe.text import some

_BATCH_SIZE: Final = 64


class EvalReporter(Protocol):
    """Who is told how it goes."""

    def start(self, description: str, total: int) -> Callable[[int], None]:
        """`total` things begin; what is returned is called with how many more are done."""

    def note(self, text: str) -> None:
        """One line that the user should know."""


def evaluate(plan: EvalPlan, device: torch.device, reporter: EvalReporter) -> list[EvalResult]:
    """Each checkpoint's answers on the same images; first, what is to be fitted is fitted into its file.

    Raises VitpeError for checkpoints or data that cannot be read and when these share no attribute.
    """
    options = plan.options
    if options.fits and options.refit is None:
        for path in plan.checkpoints:
            with held(path):
                pass  # to say at once what would be said after minutes
    if options.split == "test":
        reporter.note("test is for the final report: choose models on valid")
    opened_of = cache(open_samples)
    answers = []
    for number, path in enumerate(plan.checkpoints):
        loaded = LoadedCheckpoint.of(path)
        size = loaded.info.model.img_size
        opened = partial(opened_of, loaded.info.as_seen(plan.data))
        if plan.trained_on:
            data = loaded.info.as_seen(plan.trained_on[number])
            check_same_data(path, data, partial(opened_of, data, FIT_SPLIT, size))
        if options.suspects and options.split == "train":
            open_valid = partial(opened_of, split=FIT_SPLIT, img_size=size)
            check_out_of_sample(path, loaded.info, plan.data, open_valid, reporter.note)
        if options.by:
            check_terms(options.by, opened(options.split, size).attributes)
        if options.refit is not None:
            loaded = _refit(loaded, tuple(options.by), opened(FIT_SPLIT, size), device, reporter, options.refit)
        elif options.fits:
            fitted_on = answer(loaded, FIT_SPLIT, opened(FIT_SPLIT, size), device, reporter)
            loaded = fit(loaded, fitted_on, options, reporter.note)
            info = loaded.info
            thresholds, calibration = thresholds_in_words(info), calibration_in_words(info) or "none"
            reporter.note(f"{path} now has thresholds {thresholds}, calibration {calibration}")
        given = answer(loaded, options.split, opened(options.split, size), device, reporter, options.precision)
        given = replace(given, threshold=options.threshold)
        if options.maps:
            maps = mean_maps(loaded.model, given, opened(options.split, size), device, reporter.start, options.maps)
            given = replace(given, maps=maps)
        if options.by:
            given = replace(given, train_labels=_train_labels(partial(opened, "train", size), reporter))
        answers.append(given)
    if options.data is not None:
        first = answers[0].info
        samples = opened_of(first.as_seen(plan.data), options.split, first.model.img_size)
        reporter.note(describe({f"of {options.split}": samples}))
    for line in dict.fromkeys(note for given in answers for note in given.all_notes()):
        reporter.note(line)
    return answers


def _train_labels(open_train: Callable[[], Samples], reporter: EvalReporter) -> Labels | None:
    try:
        samples = open_train()
    except VitpeError as error:
        reporter.note(f"the training images' labels are not known, so nothing is weighted by them: {error.message}")
        return None
    return Labels(tuple(samples.attributes), samples.labels)


def _refit(
    loaded: LoadedCheckpoint,
    by: tuple[str, ...],
    samples: Samples,
    device: torch.device,
    reporter: EvalReporter,
    out: Path,
) -> LoadedCheckpoint:
    check_terms(dict.fromkeys(by), samples.attributes)
    info = loaded.info

    def features(model: VisionTransformer) -> NDArray[np.float64]:
        batches = Batches(ImageStore(samples, device, "disk"), info.model.img_size, _BATCH_SIZE)
        on_progress = reporter.start(f"features of {FIT_SPLIT}", len(samples.names))
        return classify_split(predicting_classifier(model, info.mean, info.std, device), batches.once(), on_progress)[0]

    refitted, how = refit_head(loaded, by, samples, FIT_SPLIT, features, out)
    reporter.note(f"wrote {out}: {how}")
    return refitted


def answer(
    loaded: LoadedCheckpoint,
    split: str,
    samples: Samples,
    device: torch.device,
    reporter: EvalReporter,
    precision: Precision = "fp32",
) -> EvalResult:
    """Run the model on the samples, which are of `split`; VitpeError when they have no attribute in common."""
    model, info = loaded.model, loaded.info
    columns, labelled = labelled_columns(loaded.path, info, samples)
    batches = Batches(ImageStore(samples, device, "disk"), info.model.img_size, _BATCH_SIZE)
    on_progress = reporter.start(f"scoring {split}", len(samples.names))
    classifier = predicting_classifier(model, info.mean, info.std, device, precision)
    logits, truth = classify_split(classifier, batches.once(), on_progress)
    return EvalResult(
        loaded.path,
        info,
        split,
        samples.source,
        columns,
        logits[:, list(columns)],
        truth[:, labelled],
        samples.names,
        Labels(samples.attributes, truth),
        samples.notes,
        precision=precision,
        samples=samples,
    )


def labelled_columns(path: Path, info: CheckpointInfo, samples: Samples) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of the checkpoint's attributes have labels, as columns of its logits and, in that order, of the labels.

    VitpeError when none has.
    """
    columns = tuple(i for i, name in enumerate(info.attributes) if name in samples.attributes)
    if not columns:
        raise VitpeError(
            f"the data has labels for {some(samples.attributes)}, {path} answers {some(info.attributes)}",
            "at least one attribute must have the same name in both",
        )
    return columns, tuple(samples.attributes.index(info.attributes[column]) for column in columns)
