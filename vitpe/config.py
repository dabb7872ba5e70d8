"""Everything a run is configured by: frozen dataclasses, presets, validation, JSON round trip.

Each default stands here once; the command line reads them from here.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from vitpe.errors import UsageError, VitpeError

DRAWN_FACES = "drawn_faces"

CELEBA_MEAN = (0.5061, 0.4254, 0.3828)
CELEBA_STD = (0.3105, 0.2903, 0.2896)

STEM_STRIDE = 8  # of a stem's last features: three convolutions, each halving the sides

T = TypeVar("T")


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise UsageError(message, hint)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a VisionTransformer; names are timm's, sizes are (height, width) in pixels.

    stem_width: channels of the first layer of a convolutional stem beside the patch projection (vitpe.model.stem), of
    which timm knows nothing; 0 for none.
    """

    img_size: tuple[int, int] = (208, 176)
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 40
    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    global_pool: Literal["token", "avg"] = "token"
    pos_embed: Literal["learned", "sincos"] = "learned"
    stem_width: int = 0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "it must be at least 1")
        _require(
            all(side >= self.patch_size and side % self.patch_size == 0 for side in self.img_size),
            f"img_size {self.img_size[0]}x{self.img_size[1]} is not made of whole {self.patch_size}x{self.patch_size}"
            " patches",
            "choose a height and width that are multiples of patch_size",
        )
        _require(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}",
            "every head needs the same width",
        )
        _require(
            self.pos_embed == "learned" or self.embed_dim % 4 == 0,
            f"embed_dim {self.embed_dim} is not a multiple of 4",
            "sine-cosine position embeddings need that",
        )
        _require(self.stem_width >= 0, f"stem_width is {self.stem_width}", "it must not be negative")
        _require(
            self.stem_width == 0 or self.patch_size % STEM_STRIDE == 0,
            f"patch_size {self.patch_size} is not a multiple of {STEM_STRIDE}",
            "a convolutional stem halves the image three times; model.stem_width=0 does without",
        )
        _require(0 <= self.drop_path_rate < 1, f"drop_path_rate is {self.drop_path_rate}", "it must be in [0, 1)")

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches; (13, 11) for 208 × 176 and 16 × 16."""
        return self.img_size[0] // self.patch_size, self.img_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """N, the class token not counted."""
        return self.grid_size[0] * self.grid_size[1]


@dataclass(frozen=True)
class DataConfig:
    """Where images and labels come from, and how a training image is varied.

    data: "drawn_faces", or a folder. labels: a CSV for folders that are not CelebA's.
    num_train, num_valid: how many faces to draw; None takes all images of a folder's split.
    store: where images wait: decoded on the "device", encoded in "memory", on "disk", or "auto".
    flip: mirror every other training image; None for yes, unless an attribute's name tells left from right.
    """

    data: str = DRAWN_FACES
    labels: str | None = None
    num_train: int | None = None
    num_valid: int | None = None
    store: Literal["auto", "device", "memory", "disk"] = "auto"
    mean: tuple[float, float, float] = CELEBA_MEAN
    std: tuple[float, float, float] = CELEBA_STD
    flip: bool | None = None

    def __post_init__(self) -> None:
        _require(
            self.labels is None or self.data != DRAWN_FACES,
            f"--labels {self.labels} without --data",
            "name the folder of the images: --data FOLDER",
        )
        for name in ("num_train", "num_valid"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} is {value}", "it must be at least 1")
        _require(all(value > 0 for value in self.std), f"std is {self.std}", "every value must be above 0")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. Learning rates are peaks: linear warm-up, then linear decay to zero.

    epochs: passes over the training split; steps, when given, takes its place.
    muon_lr: for the weight matrices of blocks and stem (torch.optim.Muon); None gives them to AdamW too.
    weight_decay: of those matrices.
    ema_decay: of the averaged weights that are scored and kept; 0 keeps the raw ones.
    whiten: update the patch projection in whitened coordinates (vitpe.training.whitening).
    patch_keep: share of the patches that an image keeps in training (patch dropout, arXiv:2208.07220).
    num_checkpoints: frames of the history between step 0 and the end. num_evals: scorings on valid in that time.
    keep: "all" writes whole models into the history, "pos_embed" only what the pictures need, "auto" whole models
    while the history stays under a gigabyte.
    """

    epochs: float = 5.0
    steps: int | None = None
    batch_size: int = 64
    muon_lr: float | None = 0.01
    adamw_lr: float = 5e-3
    weight_decay: float = 0.1
    warmup_fraction: float = 0.05
    ema_decay: float = 0.99
    label_smoothing: float = 0.0
    whiten: bool = True
    patch_keep: float = 1.0
    seed: int = 0
    num_checkpoints: int = 60
    num_evals: int = 8
    keep: Literal["auto", "all", "pos_embed"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        _require(self.epochs > 0, f"epochs is {self.epochs}", "it must be above 0")
        _require(self.steps is None or self.steps >= 1, f"steps is {self.steps}", "it must be at least 1")
        for name in ("batch_size", "num_checkpoints", "num_evals"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "it must be at least 1")
        for name in ("muon_lr", "adamw_lr"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} is {value}", "it must be above 0")
        for name in ("warmup_fraction", "ema_decay", "label_smoothing"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}", "it must be in [0, 1)")
        _require(0 < self.patch_keep <= 1, f"patch_keep is {self.patch_keep}", "it must be in (0, 1]")
        _require(self.seed >= 0, f"seed is {self.seed}", "it must not be negative")
        _require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}", "it must not be negative")


@dataclass(frozen=True)
class RunConfig:
    """All of a run. `preset` is only its name; the values stand in the other three."""

    preset: str = "tiny"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Preset:
    """A model, how to train it, and what to expect of it."""

    summary: str
    model: ModelConfig
    train: TrainConfig


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        summary="ten minutes on two CPU cores: accuracy 0.903 and mAP 0.72 from 14,000 images of CelebA",
        model=ModelConfig(embed_dim=128, depth=4, num_heads=2),
        train=TrainConfig(epochs=13, patch_keep=0.5),
    ),
    "laptop": Preset(
        summary="50 minutes on two CPU cores: accuracy 0.91 and mAP 0.77 from 14,000 images of CelebA",
        model=ModelConfig(embed_dim=192, depth=6, num_heads=3, stem_width=32),
        train=TrainConfig(epochs=14, weight_decay=0.3, patch_keep=0.5),
    ),
    "small": Preset(
        summary="ViT-S/16, for a GPU; not measured",
        model=ModelConfig(embed_dim=384, depth=12, num_heads=6, drop_path_rate=0.1),
        train=TrainConfig(epochs=30, batch_size=256, adamw_lr=3e-3, patch_keep=0.5),
    ),
    "reference": Preset(
        summary="the size that this project started from, for a GPU; not measured",
        model=ModelConfig(embed_dim=512, depth=8, num_heads=8, drop_path_rate=0.1),
        train=TrainConfig(epochs=30, batch_size=256, adamw_lr=3e-3, patch_keep=0.5),
    ),
    "base": Preset(
        summary="ViT-B/16, for a GPU; not measured",
        model=ModelConfig(embed_dim=768, depth=12, num_heads=12, drop_path_rate=0.2),
        train=TrainConfig(epochs=30, batch_size=256, adamw_lr=3e-3, patch_keep=0.5),
    ),
}
DEFAULT_PRESET = "tiny"

# What `vitpe train` draws when it is given no data: enough to learn from in minutes.
NUM_DRAWN_TRAIN = 4096
NUM_DRAWN_VALID = 1024


def preset(name: str) -> Preset:
    """The preset of that name; UsageError naming the known ones otherwise."""
    _require(name in PRESETS, f"unknown preset {name!r}", f"presets are {', '.join(PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True)
class Difference:
    """A value that two configurations do not share; key is dotted, as in "train.batch_size"."""

    key: str
    old: Any
    new: Any


def differences(old: Any, new: Any, prefix: str = "") -> list[Difference]:
    """Every leaf in which two dataclasses of one type differ."""
    found: list[Difference] = []
    for f in dataclasses.fields(old):
        a, b = getattr(old, f.name), getattr(new, f.name)
        if dataclasses.is_dataclass(a):
            found += differences(a, b, f"{prefix}{f.name}.")
        elif a != b:
            found.append(Difference(prefix + f.name, a, b))
    return found


def with_values(config: RunConfig, values: Mapping[str, Any], source: str = "--set") -> RunConfig:
    """`config` with leaves replaced: {"train.batch_size": 32, "model.img_size": [224, 224]}, JSON values.

    Raises UsageError naming a key that does not exist, or a value that does not fit.
    """
    nested = to_json(config)
    for key, value in values.items():
        section, _, name = key.partition(".")
        known = section in nested and isinstance(nested[section], dict) and name in nested[section]
        _require(known, f"{source}: unknown key {key!r}", "keys are model.*, data.* and train.* of a run's config.json")
        nested[section][name] = value
    return from_json(RunConfig, nested, source)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """ "KEY=VALUE" pairs; a value is JSON where it parses as JSON, text otherwise."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting!r} has no '='", "write --set KEY=VALUE, say --set train.adamw_lr=3e-4")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values; tuples become lists."""
    return {
        f.name: to_json(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for f in dataclasses.fields(config)
        for value in [getattr(config, f.name)]
    }


def from_json(cls: type[T], values: Any, source: Path | str) -> T:
    """The dataclass that `to_json` wrote. VitpeError naming `source` and the key for anything that does not fit."""
    _require(isinstance(values, dict), f"{source}: {cls.__name__} is not a JSON object", "the file is damaged")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    _require(not unknown, f"{source}: unknown key {', '.join(map(repr, unknown))}", "a newer vitpe may have written it")
    fields = {name: _convert(hints[name], value, f"{source}: {name}") for name, value in values.items()}
    try:
        return cls(**fields)
    except TypeError as error:  # a field without a default is missing
        raise VitpeError(f"{source}: {error}", "the file is damaged") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_json(typing.cast(type[Any], kind), value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        fits = isinstance(value, list) and (len(value) == len(args) or args[-1] is Ellipsis)
        _require(fits, f"{where} is {value!r}", f"expected a list of {len(args)}")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_convert(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is Literal:
        _require(value in args, f"{where} is {value!r}", f"expected one of {', '.join(map(str, args))}")
        return value
    if origin is dict:
        _require(isinstance(value, dict), f"{where} is {value!r}", "expected a JSON object")
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if args:  # X | None
        return None if value is None else _convert(args[0], value, where)
    if kind is float and type(value) is int:
        return float(value)
    _require(type(value) is kind, f"{where} is {value!r}", f"expected {kind.__name__}")
    return value
