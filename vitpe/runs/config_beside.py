"""The configuration that stands beside a checkpoint, if it is of Hugging Face or timm."""

import json
from collections.abc import Mapping
from pathlib import Path

from vitpe.errors import VitpeError
from vitpe.files import read_bounded
from vitpe.model.facts import ModelFacts, facts_of_config
from vitpe.runs.tensor_file import TensorEntry

_LIMIT = 4_000_000  # of 20,000 classes, named twice, there is a megabyte
_FILTERS = ("patch_embed.proj.weight", "conv_proj.weight", "projection.weight", "patch_embedding.weight")


def facts_beside(path: Path, tensors: Mapping[str, TensorEntry], width: int | None) -> ModelFacts:
    """What config.json in the folder of `path` says of a model of `width`; nothing where it cannot be read.

    A configuration of another width belongs to another model and says nothing either.
    """
    beside = path.parent / "config.json"
    nothing = ModelFacts(beside.name)
    try:
        values = json.loads(read_bounded(beside, _LIMIT))
    except (VitpeError, ValueError, RecursionError):
        return nothing
    facts = facts_of_config(values, _patch_size(tensors), beside.name)
    return nothing if None not in (facts.width, width) and facts.width != width else facts


def _patch_size(tensors: Mapping[str, TensorEntry]) -> tuple[int, int] | None:
    for name, entry in tensors.items():
        if name.endswith(_FILTERS) and len(entry.shape) == 4 and min(entry.shape) > 0:
            return entry.shape[2], entry.shape[3]
    return None
