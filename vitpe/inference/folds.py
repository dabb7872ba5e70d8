"""Models that were each trained without one fold → answers for all training images, none by a model that saw it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vitpe.config import RunConfig
from vitpe.data.folds import only_fold
from vitpe.data.sources import open_samples
from vitpe.inference.answers import Answers, Labels
from vitpe.inference.evaluate import EvalReporter, answer
from vitpe.inference.fit import LoadedCheckpoint
from vitpe.runs.find import weights_file


def out_of_fold_answers(
    runs: Sequence[Path], config: RunConfig, device: torch.device, reporter: EvalReporter
) -> Answers:
    """runs: of the folds 1, 2, …, each by its best checkpoint. config: of one of them.

    The images stand in the order of the data. Raises VitpeError for checkpoints or data that cannot be read.
    """
    data = replace(config.data, fold=None)
    samples = open_samples(data, "train", config.model.img_size, config.train.seed)
    probs = np.empty(samples.labels.shape)
    for number, run in enumerate(runs, start=1):
        held_out, chosen = only_fold(samples, number, len(runs))
        result = answer(LoadedCheckpoint.of(weights_file(run)), f"train, fold {number}", held_out, device, reporter)
        probs[chosen] = result.probs()
    info = replace(result.describe(), checkpoint=f"{len(runs)} models, each without the fold it answers", split="train")
    return Answers(
        info=replace(info, step=None),
        names=samples.names,
        attributes=result.attributes,
        probs=probs,
        thresholds=result.thresholds(),
        labels=Labels(samples.attributes, samples.labels),
    )
