"""Checkpoints → what a page needs to show their maps at any time of training: similarities in a byte each."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.reporting.page import packed
from vitpe.viz.colours import PAGE_LEVELS, ColourScale, Pixels, colour_map, range_of
from vitpe.viz.components import component_colours, norms
from vitpe.viz.history import Checkpoint, evenly, last_scored, load_history
from vitpe.viz.numbers import NUMBERS, RANDOM_MEANING, Values, checkpoint_record, random_numbers
from vitpe.viz.options import VizOptions
from vitpe.viz.similarity import Floats, cosine_similarity

UNDEFINED_PAIR: Final = 255
MAX_BYTES: Final = 16_000_000
"""Pages beyond this are slow to open: larger grids show fewer checkpoints."""


@dataclass(frozen=True)
class Frame:
    """What the page holds of a checkpoint.

    pairs: the similarities of patches n < m, row by row (N (N - 1) / 2,), as 0 for `low` to 254 for `high`; 255 where
    undefined. rest: what rounding took from these, 0 for half a step too much to 255 for half a step too little.
    norms: the embeddings' lengths (N,). components, shares: see `component_colours`; (N, 3).
    """

    pairs: NDArray[np.uint8]
    rest: NDArray[np.uint8]
    low: float
    high: float
    norms: Floats
    components: Floats
    shares: Floats

    @staticmethod
    def of(checkpoint: Checkpoint) -> "Frame":
        """Of its embeddings."""
        similarity = cosine_similarity(checkpoint.embeddings)
        lengths = norms(checkpoint.embeddings, checkpoint.grid_size).ravel()
        components, shares = component_colours(checkpoint.embeddings, checkpoint.grid_size)
        return Frame(*quantise(similarity), lengths, components.reshape(-1, 3), shares)

    def similarities(self) -> Floats:
        """What is read from `pairs`, (N (N - 1) / 2,)."""
        values = self.low + self.pairs / (UNDEFINED_PAIR - 1) * (self.high - self.low)
        return np.where(self.pairs == UNDEFINED_PAIR, np.nan, values)

    @property
    def error(self) -> float:
        """The most by which a similarity that is read from `pairs` differs from the true one."""
        return (self.high - self.low) / (UNDEFINED_PAIR - 1) / 2


def quantise(similarity: Floats) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float, float]:
    """(N, N) → pairs, rest, low and high of `Frame`; low and high are set apart when they are equal."""
    pairs = similarity[np.triu_indices(len(similarity), k=1)]
    defined = pairs[np.isfinite(pairs)]
    low, high = (float(defined.min()), float(defined.max())) if defined.size else (-1.0, 1.0)
    high = max(high, low + 1e-9)
    steps = np.where(np.isnan(pairs), UNDEFINED_PAIR, (pairs - low) / (high - low) * (UNDEFINED_PAIR - 1))
    whole = np.rint(steps)
    return whole.astype(np.uint8), _to_bytes(steps - whole + 0.5), low, high


@dataclass(frozen=True)
class Side:
    """A run's history on the page. name: of the run. records: one for each checkpoint, see `checkpoint_record`."""

    name: str
    history: Sequence[Checkpoint]
    records: Sequence[dict[str, Any]]


def history_section(
    sides: Sequence[Side],
    colours: ColourScale,
    cmap: str,
    frame_ms: int,
    alike: dict[str, Any] | None = None,
    frame_of: Callable[[Checkpoint], Frame] = Frame.of,
) -> dict[str, Any]:
    """What `run_page` shows of one history, or of two whose checkpoints belong together, one by one.

    alike: of two, what `comparison.alike_section` says of them.
    """
    history = sides[0].history
    first = history[0]
    num_columns = first.grid_size[1]
    shown = evenly(len(history), max(2, MAX_BYTES // len(first.embeddings) ** 2 // len(sides)))
    frames = [[frame_of(side.history[index]) for index in shown] for side in sides]
    everything = [record for side in sides for record in side.records]
    face = first.face
    return {
        "grid_size": list(first.grid_size),
        "frame_ms": frame_ms,
        "per_tile": colours.per_tile,
        "low": colours.low,
        "high": colours.high,
        "colours": base64.b64encode(colour_map(cmap, PAGE_LEVELS).tobytes()).decode("ascii"),
        "patch": first.example_patch[0] * num_columns + first.example_patch[1],
        "left_eye": [row * num_columns + column for row, column in face.left_eye] if face else [],
        "right_eye": [row * num_columns + column for row, column in face.right_eye] if face else [],
        "numbers": [
            {"key": key, "name": number.name, "meaning": number.meaning}
            for key, number in NUMBERS.items()
            if any(record[key] is not None for record in everything)
        ],
        "random_meaning": RANDOM_MEANING,
        "num_checkpoints": len(history),
        "error": max(frame.error for side in frames for frame in side),
        "last_error": max(side[-1].error for side in frames) / UNDEFINED_PAIR,
        "sides": [
            _side(side, shown, found, frames[0][-1].components) for side, found in zip(sides, frames, strict=True)
        ],
        "alike": alike and alike | {"values": [alike["values"][index] for index in shown]},
    }


class GrowingHistory:
    """The history of a run that trains. What was found out about a checkpoint is kept: each is worked on once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frames: dict[Path, Frame] = {}
        self._records: dict[Path, dict[str, Any]] = {}
        self._random: Values = {}

    def section(self) -> dict[str, Any]:
        """See `history_section`. VitpeError as `load_history` raises it, say where none is kept."""
        history = load_history([self._folder])
        first = history[0]
        self._random = self._random or random_numbers(first.embeddings.shape[1], first.grid_size, first.face)
        for checkpoint in history:
            if checkpoint.path not in self._frames:
                self._frames[checkpoint.path] = Frame.of(checkpoint)
                self._records[checkpoint.path] = checkpoint_record(checkpoint, self._random)
        colours = ColourScale(*range_of(self._frames[checkpoint.path].similarities() for checkpoint in history))
        side = Side(str(self._folder), history, [self._records[checkpoint.path] for checkpoint in history])
        options = VizOptions()
        return history_section(
            [side], colours, options.cmap, options.frame_ms, frame_of=lambda checkpoint: self._frames[checkpoint.path]
        )


def _side(side: Side, shown: Sequence[int], frames: Sequence[Frame], like: Floats) -> dict[str, Any]:
    return {
        "name": side.name,
        "subject": side.history[-1].subject or "",
        "random": side.records[0]["random"],
        "packed": packed(_bytes_of(frames, like)),
        "frames": [
            _facts(side.history, index, side.records[index], frame) for index, frame in zip(shown, frames, strict=True)
        ],
    }


def _bytes_of(frames: Sequence[Frame], like: Floats) -> Iterable[NDArray[np.uint8]]:
    """The last frame's rest (P,), as its numbers are looked at most; all pairs (T, P), each frame minus the one before
    it, modulo 256, which is mostly near 0 and packs well; then all lengths (T, N) and all components (T, N, 3).

    like: components (N, 3), whose signs the last ones get.
    """
    pairs = np.stack([frame.pairs for frame in frames])
    yield frames[-1].rest
    yield pairs[:1]
    yield pairs[1:] - pairs[:-1]
    for frame in frames:
        span = np.ptp(frame.norms)
        yield _to_bytes((frame.norms - frame.norms.min()) / (span if span > 0 else 1.0))
    yield from map(_to_bytes, _aligned([frame.components for frame in frames], like))


def _aligned(components: Sequence[Floats], like: Floats) -> list[Floats]:
    """The sign of a component is arbitrary: each gets the one that it has in the frame after it, the last that of
    `like`.
    """
    found = [like]
    for values in reversed(components):
        next_values = found[-1] - found[-1].mean(axis=0)
        opposite = ((values - values.mean(axis=0)) * next_values).sum(axis=0) < 0
        found.append(np.where(opposite, 1 - values, values))
    return found[:0:-1]


def _to_bytes(shares: Floats) -> Pixels:
    return np.rint(255 * shares).astype(np.uint8)


def _facts(history: Sequence[Checkpoint], index: int, record: dict[str, Any], frame: Frame) -> dict[str, Any]:
    checkpoint, scored = history[index], last_scored(history, index)
    return {
        "label": checkpoint.label,
        "step": checkpoint.step,
        "images_seen": checkpoint.images_seen,
        "scored": scored and {"label": scored.label, "valid_accuracy": scored.valid_accuracy},
        "defined": record["defined"],
        "numbers": {key: record[key] for key in NUMBERS},
        "low": frame.low,
        "high": frame.high,
        "norms": [float(frame.norms.min()), float(frame.norms.max())],
        "shares": [float(share) for share in frame.shares],
    }
