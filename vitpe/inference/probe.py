"""Does position matter? A checkpoint run on a split with its position embeddings as they are, and changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitpe.data.batches import Batches
from vitpe.data.samples import Samples
from vitpe.data.sources import open_samples
from vitpe.data.storage import ImageStore
from vitpe.inference.answers import Labels
from vitpe.inference.eval_options import EvalPlan
from vitpe.inference.eval_result import EvalResult
from vitpe.inference.evaluate import EvalReporter, labelled_columns
from vitpe.inference.fit import LoadedCheckpoint
from vitpe.inference.positions import CHANGES, SEED, Change
from vitpe.inference.probe_layers import probe_layers
from vitpe.inference.probe_result import PositionProbe
from vitpe.inference.trained_on import check_same_data
from vitpe.metrics.ablation import measure_ablations
from vitpe.metrics.thresholds import sigmoid
from vitpe.model.inputs import classify, predicting_classifier
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import build_model
from vitpe.runs.metadata import CheckpointInfo

_BATCH_SIZE: Final = 64


def probe(plan: EvalPlan, num_images: int, device: torch.device, reporter: EvalReporter) -> list[PositionProbe]:
    """Each checkpoint of the plan on the same images: all of its split, or `num_images` at random of more.

    Raises VitpeError for checkpoints or data that cannot be read, and when these share no attribute.
    """
    first = LoadedCheckpoint.of(plan.checkpoints[0])
    split = plan.options.split
    opened = partial(open_samples, split=split, img_size=first.info.model.img_size)
    if plan.trained_on:
        check_same_data(first.path, plan.trained_on[0], partial(opened, plan.trained_on[0]))
    data = first.info.as_seen(plan.data)
    samples = opened(data)
    if len(samples.names) > num_images:
        samples = opened(replace(data, num_valid=num_images))
    probes, notes = [], dict[str, None]()
    for path in plan.checkpoints:
        loaded = first if path == first.path else LoadedCheckpoint.of(path)
        answers, without = _answers(loaded, split, samples, device, reporter)
        probs, thresholds = answers.probs(), answers.thresholds()
        ablations = measure_ablations(probs, without, answers.labels, answers.attributes, thresholds)
        layers = probe_layers(*_with_and_without(loaded), loaded.info, samples, device, reporter.start)
        probes.append(PositionProbe(answers.describe(), loaded.info.model.grid_size, ablations, layers))
        notes |= dict.fromkeys(answers.all_notes())
    for line in notes:
        reporter.note(line)
    return probes


@dataclass
class _Variant:
    """A way to run the model: a classifier, whether it gets shuffled images, and the logits that it gave."""

    name: str
    classifier: nn.Module
    shuffles: bool
    logits: list[Tensor]


def _answers(
    loaded: LoadedCheckpoint, split: str, samples: Samples, device: torch.device, reporter: EvalReporter
) -> tuple[EvalResult, dict[str, list[NDArray[np.float64]]]]:
    """The answers with the embeddings as they are; and by the name of each change the probabilities (n, A) of each of
    its draws, of the same attributes.
    """
    info = loaded.info
    columns, labelled = labelled_columns(loaded.path, info, samples)
    whole, *changed = _variants(loaded.model.to(device), info, device)
    batches = Batches(ImageStore(samples, device, "disk"), info.model.img_size, _BATCH_SIZE)
    on_progress = reporter.start(f"probing step {info.step:,}", len(samples.names))
    rng = np.random.default_rng(SEED)
    for batch in batches.once():
        shuffled = shuffle_patches(batch.images, info.model.patch_size, rng)
        for variant in (whole, *changed):
            variant.logits.append(classify(variant.classifier, shuffled if variant.shuffles else batch.images))
        on_progress(len(batch.labels))
    answers = EvalResult(
        loaded.path,
        info,
        split,
        samples.source,
        columns,
        _joined(whole)[:, columns],
        samples.labels[:, labelled],
        samples.names,
        Labels(samples.attributes, samples.labels),
        samples.notes,
    )
    without: dict[str, list[NDArray[np.float64]]] = {}
    for variant in changed:
        without.setdefault(variant.name, []).append(sigmoid(_joined(variant)[:, columns]))
    return answers, without


def _joined(variant: _Variant) -> NDArray[np.float64]:
    return torch.cat(variant.logits).cpu().double().numpy()


def _variants(model: VisionTransformer, info: CheckpointInfo, device: torch.device) -> Sequence[_Variant]:
    """The model as it is, then one variant for each draw of each change. They share all but the embeddings."""
    rng = np.random.default_rng(SEED)
    table = model.position_table().detach()

    def variant(name: str, positions: Tensor, shuffles: bool = False) -> _Variant:
        changed = _with_positions(model, info, positions)
        return _Variant(name, predicting_classifier(changed, info.mean, info.std, device), shuffles, [])

    def draws(change: Change) -> list[_Variant]:
        if change.apply is None:
            return [variant(change.name, table, shuffles=True)]
        grid = table[0, 1:].cpu().numpy().reshape(*info.model.grid_size, -1)
        return [variant(change.name, with_grid(change.apply(grid, rng))) for _ in range(change.num_draws)]

    def with_grid(grid: NDArray[np.float32]) -> Tensor:
        patches = torch.from_numpy(grid).reshape(1, -1, grid.shape[-1]).to(device)
        return torch.cat([table[:, :1], patches], dim=1)

    return [variant("", table), *(each for change in CHANGES for each in draws(change))]


def _with_and_without(loaded: LoadedCheckpoint) -> tuple[VisionTransformer, VisionTransformer]:
    """Two models that share all but their position embeddings, which are those of the checkpoint and zero."""
    positions = loaded.model.position_table().detach()
    patches = torch.arange(positions.shape[1], device=positions.device) > 0
    tables = (positions, positions.masked_fill(patches[None, :, None], 0))
    first, second = (_with_positions(loaded.model, loaded.info, table) for table in tables)
    return first, second


def _with_positions(model: VisionTransformer, info: CheckpointInfo, positions: Tensor) -> VisionTransformer:
    """Another model of the same tensors but for its position embeddings (1, 1+N, D), which may be any."""
    tensors = {name: value for name, value in model.state_dict().items() if not name.startswith("pos_embed")}
    any_table = replace(info, model=replace(info.model, pos_embed="learned"))
    return build_model(any_table, tensors | {"pos_embed": positions})


def shuffle_patches(images: Tensor, patch_size: int, rng: np.random.Generator) -> Tensor:
    """(B, C, H, W) → the same, the P × P patches of each image in a random order of its own."""
    b, c, h, w = images.shape
    p = patch_size
    rows, columns = h // p, w // p
    orders = rng.permuted(np.tile(np.arange(rows * columns), (b, 1)), axis=1)
    patches = images.reshape(b, c, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5).reshape(b, rows * columns, c, p, p)
    taken = patches[torch.arange(b, device=images.device)[:, None], torch.from_numpy(orders).to(images.device)]
    return taken.reshape(b, rows, columns, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
