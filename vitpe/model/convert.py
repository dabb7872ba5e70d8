"""State dicts of timm, torchvision and Hugging Face → ours. Tensors only; files are read elsewhere.

Logits come out equal, but for one thing that tensors do not tell: Hugging Face's default LayerNorm eps is 1e-12, ours
1e-6 as in the original code and in timm. Tokens of unit variance, as trained models have, do not feel it (5e-7).
What else tensors do not tell, the grid, the number of heads and the names of the classes, is taken from what is said
beside them, else assumed with a note, and never taken where it contradicts the model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vitpe.config import PRESETS, ModelConfig
from vitpe.errors import VitpeError
from vitpe.model.facts import Grid, ModelFacts, split_rows, tokens_before_patches
from vitpe.model.pooling import QUERY_TENSORS, QueryPool
from vitpe.model.rope import RotaryEmbedding
from vitpe.model.vit import VisionTransformer, position_table, sincos_embedding

Origin = Literal["timm", "torchvision", "huggingface"]

GRID_OPTION = "--init-grid"
_TORCHVISION_NAMES = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)
# Two generations: the files on the hub name `encoder.layer.0.attention.attention.query`, transformers 5's models in
# memory `layers.0.attention.q_proj`.
_HUGGINGFACE_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_MARKS: tuple[tuple[str, Origin, tuple[tuple[str, str], ...]], ...] = (
    ("pos_embed", "timm", ()),
    ("pos_embed_y", "timm", ()),
    ("encoder.pos_embedding", "torchvision", _TORCHVISION_NAMES),
    ("embeddings.position_embeddings", "huggingface", _HUGGINGFACE_NAMES),
)
# Parts of Hugging Face's models that no logit of ours depends on.
_UNUSED = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token", "mask_token")
_DECODER = re.compile(r"decoder[._]")  # of masked autoencoders
_QUERIES = "query_pool."  # of ours alone
_FREQUENCIES = "rope.freqs"
_FACTORS = ("pos_embed_y", "pos_embed_x")
_SHOWN = 5  # names in a note


@dataclass(frozen=True)
class Converted:
    """What `convert_state_dict` made of somebody's weights.

    state_dict: float32, every key and shape that VisionTransformer(model_config).load_state_dict(strict=True) asks for.
    origin: whose names the tensors had; ours are timm's.
    notes: one line for each thing that was not taken over as it stood.
    """

    state_dict: dict[str, Tensor]
    origin: Origin
    notes: tuple[str, ...]


def convert_state_dict(
    tensors: dict[str, Tensor],
    model_config: ModelConfig,
    attributes: Sequence[str] = (),
    facts: ModelFacts | None = None,
    grid: Grid | None = None,
) -> Converted:
    """Weights of a timm, torchvision or Hugging Face ViT as a state dict for VisionTransformer(model_config).

    attributes: names of our head's rows. A row is taken over where the weights' head has one of that name; all others
    are zero, which starts them at probability one half. So it is with attribute queries, which start anew where the
    weights have none.
    facts: what is said of the weights elsewhere. grid: (rows, columns) of their pos_embed as the user says; where
    nobody says it, see `split_rows`. Position embeddings are resampled to model_config.grid_size and brought into
    the form of model_config.pos_embed, with a note where that changes the logits.
    VitpeError names the first tensor that is missing, has no place in the model or does not fit, and what was expected;
    sizes, grid and number of heads that contradict the model's, with the preset that fits.
    """
    facts = facts or ModelFacts()
    notes: list[str] = []
    origin, found = _rename(tensors, notes)
    _require_floats(found)
    with torch.device("meta"):
        expected = VisionTransformer(model_config).state_dict()
    _check_sizes(found, model_config, facts)
    _move_norm(found, expected, notes)
    _check_heads(model_config, facts, notes)
    rows = _convert_head(found, expected, attributes, facts, notes)
    if model_config.global_pool == "queries":
        _convert_queries(found, model_config, rows, notes)
    _convert_rope(found, model_config, facts, notes)
    _check_places(found, expected)
    _convert_pos_embed(found, model_config, facts, grid, notes)
    _check(found, expected)
    return Converted({key: found[key].float() for key in expected}, origin, tuple(notes))


def _rename(tensors: dict[str, Tensor], notes: list[str]) -> tuple[Origin, dict[str, Tensor]]:
    """Whose tensors these are, and the tensors under timm's keys."""
    for mark, origin, names in _MARKS:
        prefixes = [key.removesuffix(mark) for key in tensors if f".{key}".endswith(f".{mark}")]
        prefixes = [prefix for prefix in prefixes if not _DECODER.search(prefix)] or prefixes
        if len(prefixes) > 1:
            raise VitpeError(
                f"the file holds {len(prefixes)} networks: {', '.join(map(repr, prefixes[:_SHOWN]))}",
                hint="save the tensors of one of them",
            )
        if prefixes:
            bare = _network(tensors, prefixes[0], names, notes)
            return origin, _fuse_qkv(bare) if origin == "huggingface" else bare
    raise VitpeError(
        f"these {len(tensors)} tensors are no ViT's: the first is {next(iter(tensors), None)!r}",
        hint="weights of a VisionTransformer from timm, torchvision, Hugging Face or vitpe are understood",
    )


def _network(
    tensors: dict[str, Tensor], prefix: str, names: tuple[tuple[str, str], ...], notes: list[str]
) -> dict[str, Tensor]:
    """The tensors whose keys begin with `prefix`, and the head, which may stand outside, under timm's keys.

    DistributedDataParallel puts `module.` before each key, torch.compile `_orig_mod.`, task models and trainers `vit.`,
    `model.` or `backbone.`; AveragedModel has its counter `n_averaged` beside the network.
    """
    found: dict[str, Tensor] = {}
    left_out = []
    for key, tensor in tensors.items():
        inside = key.startswith(prefix)
        name = key.removeprefix(prefix) if inside else _without_common_start(key, prefix)
        renamed = _apply(names, name)
        if name in _UNUSED or key == "n_averaged":
            continue
        if _DECODER.match(name) or not (inside or renamed.startswith("head.")):
            left_out.append(key)
        elif renamed in found:
            raise VitpeError(f"two tensors are {renamed!r}, one of them {key!r}", "save the tensors of one network")
        else:
            found[renamed] = tensor
    if left_out:
        notes.append(f"{len(left_out)} tensors that are not of the ViT left out: {_some(left_out)}")
    return found


def _without_common_start(key: str, prefix: str) -> str:
    """`module.classifier.weight` beside `module.vit.` → `classifier.weight`."""
    parts = key.split(".")
    for outer in prefix.split(".")[:-1]:
        if parts[0] != outer or len(parts) == 1:
            break
        parts = parts[1:]
    return ".".join(parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _apply(names: tuple[tuple[str, str], ...], key: str) -> str:
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key


def _require_floats(found: dict[str, Tensor]) -> None:
    for key, tensor in found.items():
        if not tensor.is_floating_point():
            raise VitpeError(
                f"tensor {key!r} holds {str(tensor.dtype).removeprefix('torch.')}, no floating-point numbers",
                hint="quantised weights are not understood: convert them to a float type",
            )


def _fuse_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate query, key and value → one qkv, stacked along the outputs."""
    fused = {key: tensor for key, tensor in tensors.items() if not re.search(r"\.attn\.(query|key|value)\.", key)}
    for key in [key for key in tensors if ".attn.query." in key]:
        parts = [key.replace(".query.", f".{name}.") for name in ("query", "key", "value")]
        for part in parts:
            if part not in tensors:
                raise _missing(part, "query, key and value belong together")
            if tensors[part].shape != tensors[key].shape or tensors[part].ndim == 0:
                raise _misfit(part, tensors[part], f"{tuple(tensors[key].shape)}, as {key!r} has")
        fused[key.replace(".query.", ".qkv.")] = torch.cat([tensors[part] for part in parts])
    return fused


def _move_norm(found: dict[str, Tensor], expected: dict[str, Tensor], notes: list[str]) -> None:
    """The final norm is called norm before the class token's head and fc_norm after mean pooling."""
    for old, new in (("norm", "fc_norm"), ("fc_norm", "norm")):
        if f"{old}.weight" in found and f"{new}.weight" in expected:
            for part in ("weight", "bias"):
                if f"{old}.{part}" in found:
                    found[f"{new}.{part}"] = found.pop(f"{old}.{part}")
            notes.append(f"{old} taken as {new}: the weights were trained with the other pooling")


def _check_heads(config: ModelConfig, facts: ModelFacts, notes: list[str]) -> None:
    """Any number of heads that divides the width fits the tensors, and each makes them another function."""
    if facts.num_heads is None:
        notes.append(f"taken as a model of {config.num_heads} heads, which the file does not say")
    elif facts.num_heads != config.num_heads:
        raise VitpeError(
            f"the weights have {facts.num_heads} heads, as {facts.source} says, the model has {config.num_heads}",
            hint=f"--set model.num_heads={facts.num_heads}",
        )


def _convert_head(
    found: dict[str, Tensor],
    expected: dict[str, Tensor],
    attributes: Sequence[str],
    facts: ModelFacts,
    notes: list[str],
) -> list[tuple[int, int]]:
    """Rows by name: those of another model stand in another order, or for other things. Those taken: ours, theirs."""
    weight, bias = (torch.zeros(expected[key].shape) for key in ("head.weight", "head.bias"))
    theirs, bias_there = found.pop("head.weight", None), found.pop("head.bias", None)
    found |= {"head.weight": weight, "head.bias": bias}
    if theirs is None:
        notes.append("head: the weights have none, ours starts at zero")
        return []
    num_classes = _shape({"head.weight": theirs}, "head.weight", "(A, D)")[0]
    if theirs.shape[1] != weight.shape[1]:
        raise _misfit("head.weight", theirs, f"(A, {weight.shape[1]})")
    if bias_there is not None and bias_there.shape != (num_classes,):
        raise _misfit("head.bias", bias_there, f"({num_classes},)")
    classes = facts.classes
    if classes is None or len(classes) != num_classes:
        notes.append(f"head of {num_classes} classes left out, as nothing tells their names: ours starts at zero")
        return []
    rows = {name: row for row, name in enumerate(classes) if classes.count(name) == 1}
    taken = [(row, rows[name]) for row, name in enumerate(attributes) if name in rows]
    for ours, old in taken:
        weight[ours] = theirs[old].float()
        if bias_there is not None:
            bias[ours] = bias_there[old].float()
    missing = [name for name in attributes if name not in rows]
    if not taken:
        notes.append(f"head of {num_classes} classes left out, none is called as ours are: ours starts at zero")
    elif missing:
        notes.append(f"head: {len(taken)} of {len(attributes)} attributes by name, zero for {_some(missing)}")
    elif tuple(attributes) != classes:
        notes.append(f"head: {len(taken)} of its {num_classes} classes taken by name")
    return taken


def _convert_queries(
    found: dict[str, Tensor], config: ModelConfig, rows: list[tuple[int, int]], notes: list[str]
) -> None:
    """A query pool whose rows are those that the head took; the others are new, and change no logit at first."""
    pool = QueryPool(config).state_dict()
    if not any(key.startswith(_QUERIES) for key in found):
        notes.append("attribute queries: the weights have none, ours start anew")
        found |= {_QUERIES + key: tensor for key, tensor in pool.items()}
        return
    for name in QUERY_TENSORS:
        key, new = _QUERIES + name, pool[name]
        num_rows, width = _shape(found, key, "(A, D)")
        if width != config.embed_dim or any(old >= num_rows for _, old in rows):
            raise _misfit(key, found[key], f"(A, {config.embed_dim})")
        for ours, old in rows:
            new[ours] = found[key][old].float()
        found[key] = new


def _convert_rope(found: dict[str, Tensor], config: ModelConfig, facts: ModelFacts, notes: list[str]) -> None:
    """Frequencies are of the image and fit any grid. Whoever turns tokens otherwise than in training is told."""
    theirs = facts.rope or ("mixed" if _FREQUENCIES in found else "none")
    if _FREQUENCIES in found and not facts.is_ours:
        raise VitpeError(
            f"the weights have rotary frequencies of another library, {_FREQUENCIES!r}",
            hint="only those of vitpe are understood: libraries differ in which channels turn together",
        )
    if theirs != config.rope:
        notes.append(f"rope: {config.rope} where the weights were trained with {theirs}, so that their logits change")
        found.pop(_FREQUENCIES, None)
        frequencies = RotaryEmbedding(config).freqs
        if frequencies is not None:
            found[_FREQUENCIES] = frequencies.detach()


def _convert_pos_embed(
    found: dict[str, Tensor], config: ModelConfig, facts: ModelFacts, asked: Grid | None, notes: list[str]
) -> None:
    """Whatever the weights have → what the model has. The class token's own row is part of the token where the model
    learns no row for it.
    """
    factors = None
    if any(key in found for key in _FACTORS):
        factors = _convert_factors(found, config, asked, notes)
        table = position_table(*factors)
    else:
        _convert_table(found, config, facts, asked, notes)
        table = found.pop("pos_embed").float()
    if config.pos_embed != "learned" and table[:, :1].any():
        _shape(found, "cls_token", "(1, 1, D)")
        found["cls_token"] = found["cls_token"].float() + table[:, :1]
        table = torch.cat([torch.zeros_like(table[:, :1]), table[:, 1:]], dim=1)
    match config.pos_embed:
        case "factorized":
            y, x = factors or _split_table(table, config.grid_size)
            if not torch.allclose(position_table(y, x), table, rtol=0, atol=1e-5):
                nearest = "the sums of rows and columns that are nearest to the weights' own"
                notes.append(f"pos_embed: {nearest}, so that their logits change")
            found |= dict(zip(_FACTORS, (y, x), strict=True))
            return
        case "none" if table.any():
            notes.append("pos_embed: none where the weights were trained with some, so that their logits change")
            table = torch.zeros_like(table)
        case "sincos" if not torch.allclose(table[0, 1:], sincos_embedding(config.grid_size, table.shape[2])):
            notes.append("pos_embed: the weights' own, which stay as they are, in the place of sines and cosines")
        case "learned" if factors:
            notes.append("pos_embed: each patch starts with the sum of the weights' row and column")
    found["pos_embed"] = table


def _convert_factors(
    found: dict[str, Tensor], config: ModelConfig, asked: Grid | None, notes: list[str]
) -> tuple[Tensor, Tensor]:
    """Rows and columns on the model's grid, each resampled by itself."""
    rows, columns = (_shape(found, key, "(1, side, D)") for key in _FACTORS)
    for key, shape in zip(_FACTORS, (rows, columns), strict=True):
        if shape != (1, shape[1], config.embed_dim):
            raise _misfit(key, found[key], f"(1, side, {config.embed_dim})")
    grid = rows[1], columns[1]
    if asked is not None and asked != grid:
        raise _other_grid(grid, asked)
    if grid != config.grid_size:
        notes.append("pos_embed resampled from {}x{} to {}x{} patches".format(*grid, *config.grid_size))
    y, x = (
        resample_pos_embed(found.pop(key).float(), (old, 1), (new, 1), num_prefix_tokens=0)
        for key, old, new in zip(_FACTORS, grid, config.grid_size, strict=True)
    )
    return y, x


def _split_table(table: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """(1, 1+N, D) → the rows (1, rows, D) and columns (1, columns, D) whose sums are nearest to it, in squares."""
    patches = table[:, 1:].reshape(1, *grid, -1)
    y = patches.mean(dim=2)
    return y, patches.mean(dim=1) - y.mean(dim=1, keepdim=True)


def _other_grid(grid: Grid, asked: Grid) -> VitpeError:
    return VitpeError("its grid is {}x{}, not {}x{}".format(*grid, *asked), f"do without {GRID_OPTION}")


def _convert_table(
    found: dict[str, Tensor], config: ModelConfig, facts: ModelFacts, asked: Grid | None, notes: list[str]
) -> None:
    """One row a patch, on the model's grid, after a row for the class token."""
    shape = _shape(found, "pos_embed", "(1, 1 + N, D)")
    num_rows, width = shape[1:]
    tokens = tokens_before_patches({key: tuple(tensor.shape) for key, tensor in found.items()}, "pos_embed")
    ours, beside = (facts.grid_size, None) if facts.is_ours else (None, facts.grid_size)
    if asked is not None and ours is not None and asked != ours:
        raise _other_grid(ours, asked)
    known = asked or ours
    try:
        rows = split_rows(num_rows, tokens, known=known, beside=beside, likely=config.grid_size, option=GRID_OPTION)
    except VitpeError as error:
        raise VitpeError(f"tensor 'pos_embed' has {error.message}", error.hint) from error
    if rows.assumed:
        notes.append(f"pos_embed {rows.assumed}")
    if rows.num_prefix == 0:
        notes.append("pos_embed has no row for the class token: zero there")
        found["pos_embed"] = torch.cat([torch.zeros(1, 1, width), found["pos_embed"].float()], dim=1)
    elif rows.num_prefix > 1:
        raise _misfit("pos_embed", found["pos_embed"], "one row for a class token")
    if rows.grid_size != config.grid_size:
        found["pos_embed"] = resample_pos_embed(found["pos_embed"].float(), rows.grid_size, config.grid_size)
        notes.append("pos_embed resampled from {}x{} to {}x{} patches".format(*rows.grid_size, *config.grid_size))


def resample_pos_embed(
    pos_embed: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int = 1
) -> Tensor:
    """(1, T, D) on `old_grid` (rows, columns) → (1, T', D) on `new_grid`, T = num_prefix_tokens + rows · columns.

    The patches' rows are a picture of D channels, resized by antialiased bicubic interpolation in float32 and given
    back in their own dtype; the prefix (class token) stays as it is. Grids are compared by their sides and never by
    their number of patches: 13 × 11 to 11 × 13 is a resize too. ValueError when T does not fit `old_grid`.
    """
    num_patches = pos_embed.shape[1] - num_prefix_tokens
    if num_patches != old_grid[0] * old_grid[1]:
        raise ValueError(f"pos_embed holds {num_patches} patches, a grid of {old_grid} does not")
    if old_grid == new_grid:
        return pos_embed
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    picture = patches.float().reshape(len(patches), *old_grid, -1).permute(0, 3, 1, 2)
    resized = interpolate(picture, size=new_grid, mode="bicubic", antialias=True)
    return torch.cat([prefix, resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)], dim=1)


def _check_sizes(found: dict[str, Tensor], config: ModelConfig, facts: ModelFacts) -> None:
    """VitpeError, with the preset that fits, unless width, depth, patches, MLP and stem are the model's."""
    key, expected = (_FACTORS[0], "(1, rows, D)") if _FACTORS[0] in found else ("pos_embed", "(1, 1 + N, D)")
    width = _shape(found, key, expected)[-1]
    theirs: dict[str, float] = {"embed_dim": width, "depth": _depth(found)}
    if "patch_embed.proj.weight" in found:
        theirs["patch_size"] = _shape(found, "patch_embed.proj.weight", "(D, C, P, P)")[-1]
    if "blocks.0.mlp.fc1.weight" in found:
        theirs["mlp_ratio"] = _shape(found, "blocks.0.mlp.fc1.weight", "(M, D)")[0] / width
    has_stem = any(key.startswith("stem.") for key in found)

    def differing(model: ModelConfig) -> list[str]:
        return [key for key, value in theirs.items() if getattr(model, key) != value]

    wrong = differing(config)
    if wrong:
        fitting = [
            name
            for name, preset in PRESETS.items()
            if not differing(preset.model)
            and bool(preset.model.stem_width) == has_stem
            and facts.num_heads in (None, preset.model.num_heads)
        ]
        values = {key: f"{theirs[key]:g}" for key in wrong}
        if "embed_dim" in wrong:  # the default's number of heads need not divide it
            values["num_heads"] = str(facts.num_heads or "HEADS")
        settings = " ".join(f"--set model.{key}={value}" for key, value in values.items())
        raise VitpeError(
            f"the weights have {_sizes(theirs, wrong)}, the model has {_sizes(vars(config), wrong)}",
            hint=f"--preset {fitting[0]} fits" if fitting else f"no preset fits: {settings}",
        )
    if config.stem_width and not has_stem:
        raise VitpeError(
            "the weights have no convolutional stem, the model has one", hint="do without: --set model.stem_width=0"
        )


def _sizes(values: dict[str, float], keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {values[key]:g}" for key in keys)


def _check_places(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """VitpeError for a tensor that the model has not."""
    for key in found:
        if key in expected or key in ("pos_embed", *_FACTORS):
            continue
        if key.startswith(_QUERIES):
            raise VitpeError(
                "the weights have attribute queries, the model has none", "--set model.global_pool=queries"
            )
        raise VitpeError(
            f"tensor {key!r} of shape {tuple(found[key].shape)} has no place in the model",
            hint="only the plain ViT with a class token is understood: no registers, no layer scale",
        )


def _check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """VitpeError unless `found` has the expected keys and shapes."""
    for key, tensor in expected.items():
        if key not in found:
            raise _missing(key, f"the model needs it, of shape {tuple(tensor.shape)}")
        if found[key].shape != tensor.shape:
            raise _misfit(key, found[key], str(tuple(tensor.shape)))


def _shape(found: dict[str, Tensor], key: str, expected: str) -> tuple[int, ...]:
    """The shape of a tensor that must be there with as many sides as `expected` names, none of them empty."""
    if key not in found:
        raise _missing(key, f"expected {expected}")
    shape = tuple(found[key].shape)
    sides = expected.count(",") + 1
    if len(shape) != sides or 0 in shape:
        raise _misfit(key, found[key], expected)
    return shape


def _depth(found: dict[str, Tensor]) -> int:
    blocks = (re.match(r"blocks\.(\d+)\.", key) for key in found)
    return 1 + max((int(match[1]) for match in blocks if match), default=-1)


def _missing(key: str, why: str) -> VitpeError:
    return VitpeError(f"tensor {key!r} is missing: {why}", hint="the weights are not those of a whole plain ViT")


def _misfit(key: str, tensor: Tensor, expected: str) -> VitpeError:
    return VitpeError(
        f"tensor {key!r} has shape {tuple(tensor.shape)}, expected {expected}",
        hint="choose the preset, width and patch size that the weights were trained with",
    )
