"""Checkpoints → one self-contained web page: point at a patch to see its map large, at any time of training."""

import base64
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitpe.reporting.page import render
from vitpe.viz.colours import PAGE_LEVELS, ColourScale, colour_map
from vitpe.viz.history import Checkpoint, evenly, last_scored
from vitpe.viz.numbers import NUMBERS, RANDOM_MEANING
from vitpe.viz.similarity import Floats, cosine_similarity

UNDEFINED_PAIR = 65535
# Pages beyond this are slow to open: larger grids show fewer checkpoints.
MAX_BYTES = 16_000_000


def page(
    history: Sequence[Checkpoint], records: Sequence[dict[str, Any]], colours: ColourScale, cmap: str, frame_ms: int
) -> str:
    """The page as HTML. records: one for each checkpoint, see `checkpoint_record`."""
    grid_size = history[0].grid_size
    num_columns = grid_size[1]
    shown = evenly(len(history), max(2, MAX_BYTES // (len(history[0].embeddings) ** 2)))
    face = history[0].face
    data = {
        "subject": history[-1].subject or "",
        "grid_size": list(grid_size),
        "frame_ms": frame_ms,
        "per_tile": colours.per_tile,
        "low": colours.low,
        "high": colours.high,
        "colours": _base64(colour_map(cmap, PAGE_LEVELS)),
        "patch": history[0].example_patch[0] * num_columns + history[0].example_patch[1],
        "left_eye": [row * num_columns + column for row, column in face.left_eye] if face else [],
        "right_eye": [row * num_columns + column for row, column in face.right_eye] if face else [],
        "numbers": [{"key": key, "name": number.name, "meaning": number.meaning} for key, number in NUMBERS.items()],
        "random": records[0]["random"],
        "random_meaning": RANDOM_MEANING,
        "frames": [_frame(history, index, records[index]) for index in shown],
    }
    template = resources.files("vitpe.viz").joinpath("page.html").read_text(encoding="utf-8")
    return render(template, "Position embeddings", data)


def quantise(similarity: Floats) -> tuple[NDArray[np.uint16], float, float]:
    """The pairs n < m of (N, N), row by row, as 0 for the lowest to 65534 for the highest; 65535 where undefined.

    Returns these (N (N - 1) / 2,), little-endian, and the lowest and the highest value, set apart when they are equal.
    """
    pairs = similarity[np.triu_indices(len(similarity), k=1)]
    defined = pairs[np.isfinite(pairs)]
    low, high = (float(defined.min()), float(defined.max())) if defined.size else (-1.0, 1.0)
    high = max(high, low + 1e-9)
    steps = np.rint((pairs - low) / (high - low) * (UNDEFINED_PAIR - 1))
    return np.where(np.isnan(pairs), UNDEFINED_PAIR, np.nan_to_num(steps)).astype("<u2"), low, high


def _frame(history: Sequence[Checkpoint], index: int, record: dict[str, Any]) -> dict[str, Any]:
    checkpoint, scored = history[index], last_scored(history, index)
    pairs, low, high = quantise(cosine_similarity(checkpoint.embeddings))
    return {
        "label": checkpoint.label,
        "images_seen": checkpoint.images_seen,
        "scored": scored and {"label": scored.label, "valid_accuracy": scored.valid_accuracy},
        "defined": record["defined"],
        "numbers": {key: record[key] for key in NUMBERS},
        "low": low,
        "high": high,
        "pairs": _base64(pairs),
    }


def _base64(values: NDArray[np.uint8] | NDArray[np.uint16]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
