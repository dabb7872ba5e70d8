"""What the tensors of a ViT do not tell: the grid of its patches, the heads of attention, the names of its classes.

A configuration beside the file may say it (`facts_of_config`). Else the patches are taken for a square after the tokens
that the file holds, and that is said (`split_rows`). Where another reading is as good, as with 144 rows, which are
13 x 11 patches after a class token or 12 x 12 without a row for it, the grid must be given. Without torch, as pictures
are drawn without it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from vitpe.errors import UsageError, VitpeError

Grid = tuple[int, int]
"""(rows, columns) of patches."""

_MAX_CLASSES: Final = 100_000
# timm and vitpe say cls_token, dist_token, reg_token; torchvision class_token; Hugging Face cls_token,
# distillation_token, register_tokens, and class_embedding in CLIP; DINOv3 storage_tokens.
_TOKEN: Final = re.compile(r"(cls|class|dist|distill|distillation|reg|register|storage)_?(tokens?|embed|embedding)?")
# Hugging Face's and DINOv2's registers have no rows of their own in the position embeddings.
_UNPLACED: Final = ("register_tokens", "storage_tokens")
_MAX_TOKENS: Final = 64  # of one name; a mask or a query of more rows is something else
# A file with forty named tokens, damaged or made with intent, has more sums than memory can hold.
_MAX_NAMED: Final = 6
_MAX_ASPECT: Final = 4


@dataclass(frozen=True)
class ModelFacts:
    """None where nothing is said. source: who says it, for messages.

    grid_size: (rows, columns) of patches. num_heads: of attention. classes: names of the head's rows, in their order.
    width: of the model that is meant: another one's configuration may have been left in the folder.
    rope: kind of rotary embedding, as ModelConfig has it.
    is_ours: said by our own metadata in the file, which must be true; a configuration beside it may be of another.
    """

    source: str = "the file"
    grid_size: Grid | None = None
    num_heads: int | None = None
    classes: tuple[str, ...] | None = None
    width: int | None = None
    rope: str | None = None
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
        value = [value.get(str(number)) for number in range(min(len(value), _MAX_CLASSES))]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    return tuple(value) if all(isinstance(name, str) for name in value) else None


@dataclass(frozen=True)
class PatchRows:
    """num_prefix: rows before the patches. grid_size: of the patches. assumed: in words, where the file did not say."""

    num_prefix: int
    grid_size: Grid
    assumed: str | None = None


def parse_grid(text: str, option: str = "--grid") -> Grid:
    """`13x11` → (13, 11): rows, columns. Raises UsageError for anything else."""
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*[x×,]\s*([0-9]{1,6})\s*", text, re.IGNORECASE)
    if match is None or 0 in (size := (int(match[1]), int(match[2]))):
        raise UsageError(f"{option} {text!r} is not ROWSxCOLUMNS", hint=f"for example {option} 13x11")
    return size


def tokens_before_patches(shapes: Mapping[str, tuple[int, ...]], pos_embed: str) -> dict[str, int]:
    """The class, distillation and register tokens of as many channels as `pos_embed` has, with their number.

    Of several of one name, in a file of several networks, the one whose key has most in common with `pos_embed`'s.
    """
    tokens: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        kind, count = name.split(".")[-1], math.prod(shape[:-1])
        if _TOKEN.fullmatch(kind) and shape and shape[-1] == shapes[pos_embed][-1] and 1 <= count <= _MAX_TOKENS:
            shared = list(takewhile(lambda pair: pair[0] == pair[1], zip(name, pos_embed, strict=False)))
            tokens[kind] = max(tokens.get(kind, (-1, 0)), (len(shared), count))
    counts = sorted((count, kind) for kind, (_, count) in tokens.items())
    return {kind: count for count, kind in counts[:_MAX_NAMED]}


def split_rows(
    num_rows: int,
    tokens: Mapping[str, int],
    *,
    known: Grid | None = None,
    beside: Grid | None = None,
    likely: Grid | None = None,
    is_whole: bool = True,
    option: str = "--grid",
) -> PatchRows:
    """Tell the rows of tokens from those of patches in a pos_embed of `num_rows`.

    tokens: as from `tokens_before_patches`. known: the grid, where it is told. beside: as config.json beside the file
    says, which may be of another model. likely: one that would be no surprise.
    is_whole: whether the tokens, if there were any, would be among the file's tensors. option: what sets the grid.
    Raises VitpeError, which does not name the file, when no grid fits or more than one does.
    """
    prefixes = _prefixes(tokens, is_whole)
    told = known or beside
    if told is not None:
        for prefix in prefixes:
            if num_rows - prefix == told[0] * told[1]:
                said = f"{_text(prefix, told)}, as config.json beside the file says"
                return PatchRows(prefix, told, said if known is None else None)
    if known is not None:
        raise _no_fit(num_rows, prefixes, f"not {known[0]} x {known[1]}", option)
    natural, others = prefixes[0], prefixes[1:]
    for prefix in (natural, *others):
        for grid in (_square(num_rows - prefix), likely):
            if grid is None or grid[0] * grid[1] != num_rows - prefix:
                continue
            rectangle = None if prefix == natural or grid == likely else _rectangle(num_rows - natural)
            if rectangle is not None:
                raise _ambiguous(num_rows, (natural, rectangle), (prefix, grid), option)
            unfit = f" (config.json beside it says {beside[0]} x {beside[1]})" if beside else ""
            return PatchRows(prefix, grid, _assumed(prefix, grid, option) + unfit)
    raise _no_fit(num_rows, prefixes, "no square", option)


def _prefixes(tokens: Mapping[str, int], is_whole: bool) -> list[int]:
    """How many rows may stand before the patches, what is usual first.

    Usual is a row for each token, as in timm's models, or, with no_embed_class, for none. Whoever names no token has
    none, or, in a file of position embeddings alone, perhaps a class token.
    """
    placed = sum(count for name, count in tokens.items() if name not in _UNPLACED)
    if not tokens:
        return [0, 1] if is_whole else [1, 0]
    sums = {0}
    for count in tokens.values():
        sums |= {count + other for other in sums}
    return [placed, *sorted(sums - {placed})]


def _square(num_patches: int) -> Grid | None:
    side = math.isqrt(max(num_patches, 0))
    return (side, side) if side > 1 and side * side == num_patches else None


def _rectangle(num_patches: int) -> Grid | None:
    """The grid of so many patches that is nearest to a square, higher than wide; None where it is a mere strip."""
    for columns in range(math.isqrt(max(num_patches, 0)), 1, -1):
        if num_patches % columns == 0:
            rows = num_patches // columns
            return (rows, columns) if rows <= _MAX_ASPECT * columns else None
    return None


def _assumed(prefix: int, grid: Grid, option: str) -> str:
    return f"taken as {_text(prefix, grid)}, which the file does not say; if it is another grid: {option} ROWSxCOLUMNS"


def _text(prefix: int, grid: Grid) -> str:
    after = {0: "without a row before them", 1: "after a class token"}.get(prefix, f"after {prefix} tokens")
    return f"{grid[0]} x {grid[1]} patches {after}"


def _ambiguous(num_rows: int, usual: tuple[int, Grid], other: tuple[int, Grid], option: str) -> VitpeError:
    rows, columns = usual[1]
    return VitpeError(
        f"{num_rows} position embeddings, which could be {_text(*usual)}, or {_text(*other)}",
        f"say which grid it is, rows first: {option} {rows}x{columns}, {columns}x{rows} or {other[1][0]}x{other[1][1]}",
    )


def _no_fit(num_rows: int, prefixes: Sequence[int], wanted: str, option: str) -> VitpeError:
    counts = " or ".join(map(str, prefixes))
    return VitpeError(
        f"{num_rows} position embeddings: with {counts} of them for tokens that are no patches, the rest is {wanted}",
        f"give the grid of patches, for example {option} 13x11 for 13 rows and 11 columns",
    )
