"""What the tensors of a ViT do not tell, from the configuration that other libraries keep beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitpe.model.grid import Grid

MAX_CLASSES = 100_000


@dataclass(frozen=True)
class ModelFacts:
    """None where nothing is said. source: who says it, for messages.

    grid_size: (rows, columns) of patches. num_heads: of attention. classes: names of the head's rows, in their order.
    width: of the model that is meant: another one's configuration may have been left in the folder.
    is_ours: said by our own metadata in the file, which must be true; a configuration beside it may be of another.
    """

    source: str = "the file"
    grid_size: Grid | None = None
    num_heads: int | None = None
    classes: tuple[str, ...] | None = None
    width: int | None = None
    is_ours: bool = False


def facts_of_config(values: Any, patch_size: tuple[int, int] | None, source: str) -> ModelFacts:
    """From a config.json as Hugging Face or timm write it, already parsed; anything else says nothing.

    patch_size: (height, width) as the patch projection's filters have it, for configurations that do not say.
    """
    if not isinstance(values, dict):
        return ModelFacts(source)
    if isinstance(values.get("pretrained_cfg"), dict) or isinstance(values.get("model_args"), dict):
        args, pretrained = (_table(values.get(key)) for key in ("model_args", "pretrained_cfg"))
        image = args.get("img_size") or _last_two(pretrained.get("input_size"))
        return ModelFacts(
            source,
            _grid(image, args.get("patch_size"), patch_size),
            _count(args.get("num_heads")),
            _names(values.get("label_names") or pretrained.get("label_names")),
            _count(args.get("embed_dim") or values.get("num_features")),
        )
    model = _table(values.get("vision_config")) or values  # of two towers, the one that sees
    return ModelFacts(
        source,
        _grid(model.get("image_size"), model.get("patch_size"), patch_size),
        _count(model.get("num_attention_heads")),
        _names(values.get("id2label")),
        _count(model.get("hidden_size")),
    )


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 31 else None


def _pair(value: Any) -> tuple[int, int] | None:
    """224 or [208, 176] as (height, width)."""
    sides = value if isinstance(value, list) else [value, value]
    match [_count(side) for side in sides]:
        case [int(height), int(width)]:
            return height, width
    return None


def _last_two(value: Any) -> Any:
    """(height, width) of [channels, height, width]."""
    return value[1:] if isinstance(value, list) and len(value) == 3 else None


def _grid(image: Any, patch: Any, measured: tuple[int, int] | None) -> Grid | None:
    image_size, patch_size = _pair(image), _pair(patch) or measured
    if image_size is None or patch_size is None:
        return None
    rows, columns = image_size[0] // patch_size[0], image_size[1] // patch_size[1]
    return (rows, columns) if min(rows, columns) > 0 else None


def _names(value: Any) -> tuple[str, ...] | None:
    """{"0": "Male", …} or ["Male", …] as names by number; None unless there is one for each number."""
    if isinstance(value, dict):
        value = [value.get(str(number)) for number in range(min(len(value), MAX_CLASSES))]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    return tuple(value) if all(isinstance(name, str) for name in value) else None
