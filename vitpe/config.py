"""Everything a run is configured by: frozen dataclasses, their bounds, and presets.

Each default stands here once; the command line reads them from here.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from vitpe import celeba
from vitpe.errors import UsageError
from vitpe.fields import Bounds, after, check_bounds, from_json, require, to_json
from vitpe.text import brief

DRAWN_FACES = "drawn_faces"

Precision = Literal["fp32", "bf16"]
"""Of matrix products: float32, or bfloat16, which is faster where the processor has it."""

Fit = Literal["crop", "pad", "stretch"]
"""What is done with an image that has not the model's shape: vitpe.data.fitting."""

LAYER_NORM_EPS = 1e-6  # of the original ViT (arXiv:2010.11929) and of timm
STEM_STRIDE = 8  # of a stem's last features: three convolutions, each halving the sides
ROPE_BASE = 10  # of rotary embeddings' frequencies, which fall from 1 to nearly 1 / ROPE_BASE (arXiv:2403.13298)
ROPE_GRID = (13, 11)  # rows and columns on which a step from patch to patch is a step of 1 for these


MAX_PARTING = 5
"""Attributes whose values part images into groups; more would make more than 32, which few data fill."""

SEEDS = Bounds(0, 2**63 - 1)
FOLDS = Bounds(1, 100)
_NUM_IMAGES = Bounds(1, 10**9)
_SHARE = Bounds(0, 1, below=True)
_LEARNING_RATE = Bounds(0, 1e30, above=True)  # more is no float32; what is too much for training, training finds


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a VisionTransformer; names are timm's, sizes are (height, width) in pixels.

    global_pool: what the logits are read from: the class "token", the "avg" of the patches' tokens, or "queries", one
    an attribute that attends to all tokens, beside the class token (vitpe.model.pooling), of which timm knows nothing.
    pos_embed: how a patch is told where it is: by a row "learned" for it, by fixed sines and cosines ("sincos"), by the
    sum of what is learned for its row and for its column of the grid ("factorized"), or by "none" of these.
    rope: rotary position embedding beside pos_embed, along the "axial" directions or in learned, "mixed" ones
    (vitpe.model.rope).
    stem_width: channels of the first layer of a convolutional stem beside the patch projection (vitpe.model.stem), of
    which timm knows nothing; 0 for none.
    """

    img_size: Annotated[tuple[int, int], Bounds(1, 4_096)] = (208, 176)
    patch_size: Annotated[int, Bounds(1, 4_096)] = 16
    in_chans: Annotated[int, Bounds(3, 3)] = 3
    num_classes: Annotated[int, Bounds(1, 100_000)] = 40
    embed_dim: Annotated[int, Bounds(1, 65_536)] = 384
    depth: Annotated[int, Bounds(1, 1_000)] = 12
    num_heads: Annotated[int, Bounds(1, 65_536)] = 6
    mlp_ratio: Annotated[float, Bounds(0, 100, above=True)] = 4.0
    global_pool: Literal["token", "avg", "queries"] = "token"
    pos_embed: Literal["learned", "sincos", "factorized", "none"] = "learned"
    rope: Literal["none", "axial", "mixed"] = "none"
    stem_width: Annotated[int, Bounds(0, 8_192)] = 0
    drop_path_rate: Annotated[float, _SHARE] = 0.0

    def __post_init__(self) -> None:
        check_bounds(self)
        require(
            all(side >= self.patch_size and side % self.patch_size == 0 for side in self.img_size),
            f"img_size {self.img_size[0]}x{self.img_size[1]} is not made of whole {self.patch_size}x{self.patch_size}"
            " patches",
            "choose a height and width that are multiples of patch_size",
        )
        require(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}",
            "every head needs the same width",
        )
        require(
            self.pos_embed != "sincos" or self.embed_dim % 4 == 0,
            f"embed_dim {self.embed_dim} is not a multiple of 4",
            "sine-cosine position embeddings need that",
        )
        require(
            self.rope == "none" or self.head_dim % 4 == 0,
            f"heads of {self.head_dim} channels, which is not a multiple of 4",
            "rotary position embeddings need that",
        )
        require(
            self.mlp_dim >= 1,
            f"mlp_ratio {self.mlp_ratio} of embed_dim {self.embed_dim} leaves the MLPs no width",
            "choose a larger mlp_ratio: 4 is usual",
        )
        require(
            self.stem_width == 0 or self.patch_size % STEM_STRIDE == 0,
            f"patch_size {self.patch_size} is not a multiple of {STEM_STRIDE}",
            "a convolutional stem halves the image three times; model.stem_width=0 does without",
        )

    @property
    def head_dim(self) -> int:
        """Width of a head of attention."""
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Width of the MLPs' hidden layer."""
        return round(self.embed_dim * self.mlp_ratio)

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

    data: "drawn_faces", or a folder. labels: CSVs, or folders of them, for images
    that are not CelebA's.
    num_train, num_valid: how many faces to draw; None takes all images of a folder's split.
    fit: what is done with images that have not the model's shape: "crop" cuts them, "pad" gives them borders in the
    colour `mean`, "stretch" changes their shape (vitpe.data.fitting).
    store: where images wait: decoded on the "device", encoded in "memory", on "disk", or "auto".
    flip: mirror every other training image; None for yes, unless an attribute's name tells left from right.
    relabel: a CSV of corrections of labels. attributes: those to train on, None for all.
    fold: (number, of how many) of the training images that are left out, see vitpe.data.folds; None for none.
    """

    data: str = DRAWN_FACES
    labels: tuple[str, ...] | None = None
    num_train: Annotated[int | None, _NUM_IMAGES] = None
    num_valid: Annotated[int | None, _NUM_IMAGES] = None
    fit: Fit = "crop"
    store: Literal["auto", "device", "memory", "disk"] = "auto"
    mean: Annotated[tuple[float, float, float], Bounds(0, 1)] = celeba.MEAN
    std: Annotated[tuple[float, float, float], Bounds(0.001, 10)] = celeba.STD
    flip: bool | None = None
    relabel: str | None = None
    attributes: tuple[str, ...] | None = None
    fold: Annotated[tuple[int, int] | None, FOLDS] = None

    def __post_init__(self) -> None:
        check_bounds(self)
        require(
            self.labels is None or self.data != DRAWN_FACES,
            f"--labels {', '.join(self.labels or ())} without --data",
            "name the folder of the images: --data FOLDER",
        )
        number, num_folds = self.fold or (1, 2)
        require(number <= num_folds > 1, f"fold is {number} of {num_folds}", "there must be two folds, and that one")
        chosen = () if self.attributes is None else self.attributes
        fault = "name none" if not chosen else "name one twice" if all(chosen) else "have an empty name"
        require(
            self.attributes is None or (bool(chosen) and all(chosen) and len(set(chosen)) == len(chosen)),
            f"attributes {brief(', '.join(chosen))!r} {fault}",
            "name each once: --attributes Smiling,Male",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. Learning rates are peaks: linear warm-up, then linear decay to zero.

    epochs: passes over the training split, None for the preset's (Preset.epochs_for); steps, when given, takes its
    place.
    muon_lr: for the weight matrices of blocks and stem (torch.optim.Muon); None gives them to AdamW too.
    weight_decay: of those matrices.
    ema_decay: of the averaged weights that are scored and kept; 0 keeps the raw ones.
    loss: binary cross-entropy, or one in which labels that are answered well count less (vitpe.training.loss).
    pos_weight: with "auto", labels 1 of an attribute count in all as much as its labels 0, however rare they are.
    whiten: update the patch projection in whitened coordinates (vitpe.training.whitening).
    balance: attributes whose values part the images into groups that come equally often; none for each image equally.
    patch_keep: share of the patches that an image keeps in training (patch dropout, arXiv:2208.07220).
    micro_batch_size: images that a device computes at once; the gradients of a batch's parts are summed, so that the
    update is the same for less memory. None for the whole batch, or the worker's share of it.
    cuda_graph: give a GPU each training step as one graph of calls (vitpe.training.graph).
    num_checkpoints: frames of the history between step 0 and the end. num_evals: scorings on valid in that time.
    keep: "all" writes whole models into the history, "pos_embed" only what the pictures need, "auto" whole models
    while the history stays under a gigabyte.
    """

    epochs: Annotated[float | None, Bounds(0, 1_000_000, above=True)] = None
    steps: Annotated[int | None, Bounds(1, 10**9)] = None
    batch_size: Annotated[int, Bounds(1, 1_000_000)] = 64
    muon_lr: Annotated[float | None, _LEARNING_RATE] = 0.01
    adamw_lr: Annotated[float, _LEARNING_RATE] = 5e-3
    weight_decay: Annotated[float, Bounds(0, 1_000)] = 0.1
    warmup_fraction: Annotated[float, _SHARE] = 0.05
    ema_decay: Annotated[float, _SHARE] = 0.99
    loss: Literal["bce", "focal", "asymmetric"] = "bce"
    pos_weight: Literal["auto", "none"] = "none"
    label_smoothing: Annotated[float, _SHARE] = 0.0
    whiten: bool = True
    patch_keep: Annotated[float, Bounds(0, 1, above=True)] = 1.0
    balance: tuple[str, ...] = ()
    seed: Annotated[int, SEEDS] = 0
    num_checkpoints: Annotated[int, Bounds(1, 100_000)] = 60
    num_evals: Annotated[int, Bounds(1, 100_000)] = 8
    keep: Literal["auto", "all", "pos_embed"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    micro_batch_size: Annotated[int | None, Bounds(1, 1_000_000)] = None
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        check_bounds(self)
        require(
            len(set(self.balance)) == len(self.balance) and all(self.balance),
            f"balance {brief(', '.join(self.balance))!r} names {'one twice' if all(self.balance) else 'no attribute'}",
            "name each attribute once: --balance Blond_Hair,Male",
        )
        require(
            len(self.balance) <= MAX_PARTING,
            f"balance names {len(self.balance)} attributes",
            f"name at most {MAX_PARTING}: groups soon are too small",
        )

    def images_at_once(self, batch_size: int) -> int:
        """Of a batch of one worker, how many images go through the model together."""
        return min(batch_size, self.micro_batch_size or batch_size)


@dataclass(frozen=True)
class Preset:
    """A model, how to train it, and what to expect of it.

    epochs: of at most `num_images` training images. Of more as many images are seen, and so the time is the same.
    """

    summary: str
    model: ModelConfig
    train: TrainConfig
    epochs: float
    num_images: int = 14_000

    def epochs_for(self, num_images: int) -> float:
        """Passes over so many training images."""
        return self.epochs * min(1, self.num_images / num_images)


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        summary="ten minutes on two CPU cores: accuracy 0.906 and mAP 0.74 from 14,000 images of CelebA",
        model=ModelConfig(embed_dim=128, depth=4, num_heads=2, global_pool="queries"),
        train=TrainConfig(patch_keep=0.5),
        epochs=13,
    ),
    "laptop": Preset(
        summary="50 minutes on two CPU cores: accuracy 0.91 and mAP 0.77 from 14,000 images of CelebA",
        model=ModelConfig(embed_dim=192, depth=6, num_heads=3, stem_width=32),
        train=TrainConfig(weight_decay=0.3, patch_keep=0.5),
        epochs=14,
    ),
    "small": Preset(
        summary="ViT-S/16, for a GPU; not measured",
        model=ModelConfig(embed_dim=384, depth=12, num_heads=6, drop_path_rate=0.1),
        train=TrainConfig(batch_size=256, adamw_lr=3e-3, patch_keep=0.5),
        epochs=30,
        num_images=celeba.NUM_TRAIN,
    ),
    "reference": Preset(
        summary="the size that this project started from, for a GPU; not measured",
        model=ModelConfig(embed_dim=512, depth=8, num_heads=8, drop_path_rate=0.1),
        train=TrainConfig(batch_size=256, adamw_lr=3e-3, patch_keep=0.5),
        epochs=30,
        num_images=celeba.NUM_TRAIN,
    ),
    "base": Preset(
        summary="ViT-B/16, for a GPU; not measured",
        model=ModelConfig(embed_dim=768, depth=12, num_heads=12, drop_path_rate=0.2),
        train=TrainConfig(batch_size=256, adamw_lr=3e-3, patch_keep=0.5),
        epochs=30,
        num_images=celeba.NUM_TRAIN,
    ),
}
DEFAULT_PRESET = "tiny"


def preset_of(name: str) -> Preset:
    """UsageError naming the presets there are for an unknown name."""
    require(name in PRESETS, f"unknown preset {name!r}", f"presets are {', '.join(PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True)
class RunConfig:
    """All of a run. `preset` names the one that it started from; the values that count are those of the others."""

    preset: str = DEFAULT_PRESET
    model: ModelConfig = PRESETS[DEFAULT_PRESET].model
    data: DataConfig = DataConfig()
    train: TrainConfig = PRESETS[DEFAULT_PRESET].train

    @staticmethod
    def from_preset(name: str) -> "RunConfig":
        """The values of the preset, on drawn faces. UsageError naming the presets there are for an unknown name."""
        preset = preset_of(name)
        return RunConfig(name, model=preset.model, train=preset.train)


# What `vitpe train` draws when it is given no data: enough to learn from in minutes.
NUM_DRAWN_TRAIN = 4096
NUM_DRAWN_VALID = 1024


def with_values(config: RunConfig, values: Mapping[str, Any], source: str = "") -> RunConfig:
    """`config` with leaves replaced: {"train.batch_size": 32, "model.img_size": [224, 224]}, JSON values.

    Raises UsageError naming a key that does not exist, or a value that does not fit, after `source` if there is one.
    """
    nested = to_json(config)
    known = [f"{section}.{name}" for section, names in nested.items() if isinstance(names, dict) for name in names]
    for key, value in values.items():
        if key not in known:
            raise UsageError(after(source, f"unknown key {brief(key)!r}"), _nearest(key, known))
        section, _, name = key.partition(".")
        nested[section][name] = value
    return from_json(RunConfig, nested, source)


def _nearest(key: str, known: list[str]) -> str:
    """What may have been meant, and what there is beside it."""
    import difflib  # only errors need it

    names = {name.partition(".")[2]: name for name in known}
    section, _, asked = key.rpartition(".")
    meant = [whole for name, whole in names.items() if asked in (name, *name.split("_"))]  # lr: muon_lr, adamw_lr
    meant.sort(key=lambda whole: not whole.startswith(f"{section}."))
    meant = meant or difflib.get_close_matches(key, known, 1)
    meant = meant or [names[name] for name in difflib.get_close_matches(asked, names, 1)]
    section = (meant[0] if meant else key).partition(".")[0]
    there = [name for name in known if name.startswith(f"{section}.")] or known
    return f"{f'did you mean {meant[0]}? ' if meant else ''}there are {', '.join(there)}"


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """ "KEY=VALUE" pairs; a value is JSON where it parses as JSON, text otherwise, in which a first ~ is the home."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            message = f"--set {brief(setting)!r} has no '='"
            raise UsageError(message, "write --set KEY=VALUE, say --set train.adamw_lr=3e-4")
        try:
            values[key] = json.loads(text)
        except (ValueError, RecursionError):
            values[key] = os.path.expanduser(text)  # noqa: PTH111 - a Path raises for a user whom it does not find
    return values
