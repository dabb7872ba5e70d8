"""What a file says of the tensors in it: our own metadata, or another library's config.json beside it. Torch-free."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from vitpe.config import PRESETS, DataConfig, Fit, ModelConfig
from vitpe.data.fitting import Fitting
from vitpe.data.image_files import MAX_PIXELS
from vitpe.data.label_table import check_attributes
from vitpe.errors import VitpeError
from vitpe.fields import from_json, to_json
from vitpe.files import read_bounded
from vitpe.model.facts import ModelFacts, facts_of_config
from vitpe.runs.tensor_file import TensorEntry, open_tensors
from vitpe.text import brief

KEY: Final = "vitpe"
"""Under which a safetensors file's metadata has ours, as JSON."""
FORMAT_VERSION: Final = 1
_SENTENCES: Final = {
    "thresholds_from": re.compile(r"tuned on (?P<thresholds_split>\w+) for (?P<thresholds_criterion>\w+)|0\.5"),
    "calibration": re.compile(r"(?P<calibration_method>\w+) on (?P<calibration_split>\w+)"),
}
"""Facts that were sentences once, and the fields that they are now."""
_CONFIG_BYTES: Final = 4_000_000  # of 20,000 classes, named twice, there is a megabyte
_FILTERS: Final = ("patch_embed.proj.weight", "conv_proj.weight", "projection.weight", "patch_embedding.weight")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    attributes: names of the A logits. mean, std: of the pixels / 255, per channel. thresholds: (A,) in [0, 1].
    stored_size: (height, width) that images are fitted to before the centre crop to model.img_size. fit: how.
    thresholds_split, thresholds_criterion: where and for what the thresholds were tuned after training; None for 0.5.
    head_split, head_by: where rows of the head were fitted anew on balanced groups, and by which attributes, of which
    those among `attributes` have these rows; None and empty where none was.
    calibration_split, calibration_method: where and how the logits were calibrated; None where they were not.
    data_source: what it was trained on. prevalence: (A,) share of the training images that have each attribute by their
    labels; empty where it is not known. balance: the attributes by which its images were in groups that came equally
    often. loss, pos_weight: TrainConfig's. valid: scores on valid at `step`, where they were taken.
    """

    model: ModelConfig
    attributes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    thresholds: tuple[float, ...]
    stored_size: tuple[int, int]
    step: int
    images_seen: int
    seed: int
    data_source: str
    fit: Fit = "crop"
    prevalence: tuple[float, ...] = ()
    balance: tuple[str, ...] = ()
    loss: str = "bce"
    pos_weight: str = "none"
    valid: dict[str, float] | None = None
    history_only: bool = False
    thresholds_split: str | None = None
    thresholds_criterion: str | None = None
    calibration_split: str | None = None
    calibration_method: str | None = None
    head_split: str | None = None
    head_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        num_attributes = len(self.attributes)
        if not num_attributes == len(self.thresholds) == self.model.num_classes:
            raise VitpeError(
                f"{num_attributes} attributes, {len(self.thresholds)} thresholds and {self.model.num_classes} classes",
                "the three must be equal",
            )
        check_attributes(self.attributes)
        if not len(self.mean) == len(self.std) == self.model.in_chans or not all(map(math.isfinite, self.mean)):
            raise VitpeError(f"mean is {self.mean}", f"expected {self.model.in_chans} numbers, as in std")
        if not all(0 < value < math.inf for value in self.std):
            raise VitpeError(f"std is {self.std}", "every value must be above 0")
        if not all(0 <= value <= 1 for value in self.thresholds):
            raise VitpeError(f"thresholds are {self.thresholds}", "every value must lie in [0, 1]")
        if len(self.prevalence) not in (0, num_attributes) or not all(0 <= share <= 1 for share in self.prevalence):
            raise VitpeError(
                f"prevalence is {self.prevalence}", "expected none, or a share in [0, 1] of each attribute"
            )
        fits = all(stored >= side for stored, side in zip(self.stored_size, self.model.img_size, strict=True))
        if not fits or math.prod(self.stored_size) > MAX_PIXELS:
            raise VitpeError(f"stored_size is {self.stored_size}", f"it must hold img_size {self.model.img_size}")
        tuned = self.thresholds_split, self.thresholds_criterion
        for split, how in (tuned, (self.calibration_split, self.calibration_method)):
            if (split is None) != (how is None):
                raise VitpeError(f"something was fitted on {split} by {how}", "one cannot be without the other")
        if (self.head_split is None) != (not self.head_by):
            raise VitpeError(f"the head was fitted on {self.head_split} by {self.head_by}", "one needs the other")
        if min(self.step, self.images_seen) < 0:
            raise VitpeError(f"step is {self.step}, images_seen {self.images_seen}", "neither can be negative")

    @property
    def fitting(self) -> Fitting:
        """What brings an image to the model's size."""
        return Fitting(self.stored_size, self.model.img_size, self.fit, self.mean)

    def as_seen(self, data: DataConfig) -> DataConfig:
        """Where those images are, with these brought to size as the model has learned them."""
        red, green, blue = self.mean
        return replace(data, fit=self.fit, mean=(red, green, blue))

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata; "format" is what Hugging Face's loaders ask for."""
        values = {
            "format_version": FORMAT_VERSION,
            "grid_size": list(self.model.grid_size),
            **to_json(self),
        }
        return {"format": "pt", KEY: json.dumps(values, allow_nan=False)}


@dataclass(frozen=True)
class HistoryInfo:
    """What pictures of position embeddings need of a CheckpointInfo, and all that a file must say to be drawn.

    grid_size: (rows, columns) of patches. img_size (height, width), patch_size: in pixels; None where they are not
    said, or are not those of grid_size. fit: `data.fit`. valid_accuracy: in [0, 1]. model_name: the preset of the
    model's shape, or the shape; None where it is not said.
    """

    step: int
    images_seen: int
    grid_size: tuple[int, int]
    img_size: tuple[int, int] | None = None
    patch_size: int | None = None
    data_source: str | None = None
    fit: Fit = "crop"
    valid_accuracy: float | None = None
    model_name: str | None = None


def read_info(path: Path) -> CheckpointInfo:
    """The metadata of one of our checkpoints, without its tensors; VitpeError for anything else."""
    with open_tensors(path) as file:
        return parse_info(file.metadata, path)


def parse_info(metadata: Mapping[str, str], path: Path) -> CheckpointInfo:
    """CheckpointInfo from safetensors metadata; VitpeError for another tool's file, another format, or damage."""
    if KEY not in metadata:
        raise VitpeError(f"{path} was not written by vitpe", "start from it with: vitpe train --init FILE")
    values = _parse(metadata[KEY], path)
    for key, pattern in _SENTENCES.items():
        sentence = values.pop(key, None)
        if sentence is not None:
            found = pattern.fullmatch(str(sentence))
            if found is None:
                raise _damaged(path, f"damaged ({key} is {brief(repr(sentence))})")
            values |= found.groupdict()
    try:
        del values["format_version"]
        grid_size = values.pop("grid_size")  # for readers without our model
        info = from_json(CheckpointInfo, values, KEY)
    except (KeyError, VitpeError, OverflowError) as error:
        raise _damaged(path, f"damaged ({brief(error)})") from error
    if grid_size != list(info.model.grid_size):
        fact = f"grid_size {brief(repr(grid_size))} where the model has {list(info.model.grid_size)}"
        raise _damaged(path, f"damaged ({fact})")
    return info


def parse_history(metadata: Mapping[str, str], path: Path) -> HistoryInfo | None:
    """HistoryInfo from safetensors metadata, whatever else stands there; None for another tool's file.

    VitpeError for another format, or damage.
    """
    if KEY not in metadata:
        return None
    values = _parse(metadata[KEY], path)
    match values:
        case {"step": int(step), "images_seen": int(seen), "grid_size": [int(rows), int(columns)]} if (
            min(step, seen) >= 0 and min(rows, columns) > 0
        ):
            grid_size = rows, columns
        case _:
            raise _damaged(path, "without step, images_seen or grid_size")
    img_size = patch_size = valid_accuracy = None
    match values.get("model"):
        case {"img_size": [int(height), int(width)], "patch_size": int(side)} if side > 0 and grid_size == (
            height // side,
            width // side,
        ):
            img_size, patch_size = (height, width), side
    match values.get("valid"):
        case {"mean_accuracy": (float() | int()) as accuracy} if 0 <= accuracy <= 1:
            valid_accuracy = float(accuracy)
    source = values.get("data_source")
    data_source = source if isinstance(source, str) else None
    name = _model_name(values.get("model"))
    fit: Fit = values["fit"] if values.get("fit") in get_args(Fit) else "crop"
    return HistoryInfo(step, seen, grid_size, img_size, patch_size, data_source, fit, valid_accuracy, name)


def _model_name(model: Any) -> str | None:
    match model:
        case {"embed_dim": int(width), "depth": int(depth), "num_heads": int(num_heads)}:
            shape = width, depth, num_heads, model.get("stem_width", 0)
            for name, preset in PRESETS.items():
                known = preset.model
                if shape == (known.embed_dim, known.depth, known.num_heads, known.stem_width):
                    return name
            return f"a ViT of width {width} and depth {depth}"
    return None


def _parse(text: str, path: Path) -> dict[str, Any]:
    """Our JSON object, of this format."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "no JSON") from error
    if not isinstance(values, dict):
        raise _damaged(path, "no JSON object")
    version = values.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise VitpeError(
            f"{path} has format version {brief(repr(version))}, not {FORMAT_VERSION}", "use the vitpe that wrote it"
        )
    return values


def _damaged(path: Path, fact: str) -> VitpeError:
    return VitpeError(f"{path}: its metadata is {fact}", "restore it from a copy, or train again")


def facts_beside(path: Path, tensors: Mapping[str, TensorEntry], width: int | None) -> ModelFacts:
    """What config.json in the folder of `path` says of a model of `width`; nothing where it cannot be read.

    A configuration of another width belongs to another model and says nothing either.
    """
    beside = path.parent / "config.json"
    nothing = ModelFacts(beside.name)
    try:
        values = json.loads(read_bounded(beside, _CONFIG_BYTES))
    except (VitpeError, ValueError, RecursionError):
        return nothing
    facts = facts_of_config(values, _patch_size(tensors), beside.name)
    return nothing if None not in (facts.width, width) and facts.width != width else facts


def _patch_size(tensors: Mapping[str, TensorEntry]) -> tuple[int, int] | None:
    for name, entry in tensors.items():
        if name.endswith(_FILTERS) and len(entry.shape) == 4 and min(entry.shape) > 0:
            return entry.shape[2], entry.shape[3]
    return None
