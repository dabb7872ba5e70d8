"""Rows of a checkpoint's head, fitted anew on balanced groups of images, into a new checkpoint."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitpe.data.samples import Samples
from vitpe.errors import VitpeError
from vitpe.files import stamp_at
from vitpe.inference.fit import LoadedCheckpoint
from vitpe.metrics.groups import MIN_COUNT, Grouping, group_by
from vitpe.metrics.last_layer import LastLayer, retrain_last_layer
from vitpe.metrics.thresholds import DEFAULT_THRESHOLD
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import save_checkpoint


class HeadInputs(VisionTransformer):
    """What the head's rows of some attributes read, (B, num_attributes · F), in place of logits: see `head_inputs`."""

    def __init__(self, model: VisionTransformer, attributes: Sequence[int]) -> None:
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.eval()
        self._attributes = tuple(attributes)

    def classify(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.head_inputs(tokens, self._attributes, keep).flatten(1)


Answering = Callable[[VisionTransformer], NDArray[np.float64]]
"""Runs a model on each of a split's n images: (n, …)."""


def refit_head(
    loaded: LoadedCheckpoint, by: tuple[str, ...], samples: Samples, split: str, run: Answering, out: Path
) -> tuple[LoadedCheckpoint, str]:
    """Fit the rows of those attributes of `by` that the checkpoint answers, and write `out`; and how, in words.

    samples: of `split`, parted into groups by the product of the labels `by`. Features stay as they are, and so do the
    rows of other attributes. See `retrain_last_layer` for how rows are fitted. Thresholds are 0.5 again.
    VitpeError when a group that has images has fewer than MIN_COUNT, when none of the attributes is answered or varies,
    and for a calibrated checkpoint, whose rows would not be so any more.
    """
    info = loaded.info
    grouping = _grouping(samples, by, split)
    refitted = tuple(name for name in by if name in info.attributes)
    if not refitted:
        raise VitpeError(f"{loaded.path} does not answer {' or '.join(by)}", "name an attribute that it answers: --by")
    if info.calibration_split is not None:
        raise VitpeError(
            f"{loaded.path} was calibrated, which a row that is fitted anew is not",
            "fit the head of a checkpoint of its history, then calibrate: RUN/ckpts/step-….safetensors",
        )
    labels = samples.labels[:, [samples.attributes.index(name) for name in refitted]]
    rows = [info.attributes.index(name) for name in refitted]
    inputs = np.split(run(HeadInputs(loaded.model, rows)), len(rows), axis=1)
    layer = retrain_last_layer(inputs, labels, grouping.group_of)
    model = copy.deepcopy(loaded.model).cpu()
    weights = model.head_weights()
    with torch.no_grad():
        for weight, part in zip(weights, np.split(layer.weight, len(weights), axis=1), strict=True):
            weight[rows] = torch.from_numpy(part).float()
        model.head.bias[rows] = torch.from_numpy(layer.bias).float()
    info = replace(
        info,
        head_split=split,
        head_by=by,
        thresholds=(DEFAULT_THRESHOLD,) * len(info.attributes),
        thresholds_split=None,
        thresholds_criterion=None,
    )
    save_checkpoint(out, model.state_dict(), info)
    return LoadedCheckpoint(out, model, info, stamp_at(out)), _in_words(refitted, grouping, layer, split)


def _grouping(samples: Samples, by: tuple[str, ...], split: str) -> Grouping:
    """Of the groups that have images."""
    grouping = group_by(samples.labels, samples.attributes, dict.fromkeys(by))
    counts = grouping.counts()
    if (counts > 0).sum() < 2:
        raise VitpeError(
            f"all images of {split} are in one group by {', '.join(by)}", "name attributes that vary: --by"
        )
    smallest = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
    if counts[smallest] < MIN_COUNT:
        raise VitpeError(
            f"{counts[smallest]:,} of {split}'s images are in the group {grouping.names[smallest]}",
            f"each group needs {MIN_COUNT}: name fewer attributes, or other images",
        )
    names = tuple(name for name, count in zip(grouping.names, counts, strict=True) if count)
    return Grouping(grouping.by, names, np.unique(grouping.group_of, return_inverse=True)[1].astype(np.intp))


def _in_words(refitted: tuple[str, ...], grouping: Grouping, layer: LastLayer, split: str) -> str:
    strengths = ", ".join(f"{name} (C {c:g})" for name, c in zip(refitted, layer.strengths, strict=True))
    num_groups, num_draws = len(grouping.names), layer.num_draws
    drawn = f"{layer.num_per_group:,} images of each of {num_groups} groups of {split}"
    return f"head rows of {strengths}: the mean of {num_draws} fits, each to {drawn}"
