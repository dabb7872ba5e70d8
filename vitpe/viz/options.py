"""What can be asked of the pictures. Light to import: the command line reads its defaults here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vitpe.errors import UsageError

AnimationFormat = Literal["gif", "mp4", "webp", "png-frames"]
ANIMATION_FORMATS: tuple[AnimationFormat, ...] = get_args(AnimationFormat)
# Browsers slow down what asks for less.
MIN_FRAME_MS = 20
MAX_FRAME_MS = 60_000
MIN_SIZE, MAX_SIZE = 400, 4000


@dataclass(frozen=True)
class Timing:
    """How long each frame is shown, and the last one, in milliseconds. GIF counts in hundredths of a second."""

    frame_ms: int
    last_frame_ms: int

    def __post_init__(self) -> None:
        for name in ("frame_ms", "last_frame_ms"):
            value = getattr(self, name)
            if not MIN_FRAME_MS <= value <= MAX_FRAME_MS:
                raise UsageError(f"{name} is {value}", hint=f"choose {MIN_FRAME_MS} to {MAX_FRAME_MS} milliseconds")

    def durations(self, num_frames: int) -> list[int]:
        """Milliseconds for each frame."""
        return [self.frame_ms] * (num_frames - 1) + [self.last_frame_ms]


@dataclass(frozen=True)
class VizOptions:
    """What to draw, and how. Raises UsageError for values that cannot be.

    out: folder of what is written, created when missing.
    format: of the animation. frame_ms, last_frame_ms: how long frames, and the last one, are shown.
    size: about how wide the animation is, in pixels; cells of the maps take whole pixels.
    cmap: a colour map of matplotlib's, checked where it is used.
    per_tile_scale: each map on its own scale instead of one for all.
    grid: "13x11", rows and columns of patches, for files that do not say it.
    html: whether a page is to be written of what is drawn. stills: whether to write the still pictures.
    max_frames: longer histories are thinned evenly for the animation; numbers are of all checkpoints.
    """

    out: Path = Path()
    format: AnimationFormat = "gif"
    frame_ms: int = 150
    last_frame_ms: int = 2500
    size: int = 842
    cmap: str = "viridis"
    per_tile_scale: bool = False
    grid: str | None = None
    html: bool = False
    stills: bool = True
    max_frames: int = 120

    def __post_init__(self) -> None:
        if self.format not in ANIMATION_FORMATS:
            raise UsageError(f"unknown format {self.format!r}", hint=f"choose {', '.join(ANIMATION_FORMATS)}")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise UsageError(f"size is {self.size}", hint=f"choose {MIN_SIZE} to {MAX_SIZE} pixels")
        if self.max_frames < 2:
            raise UsageError(f"max_frames is {self.max_frames}", hint="an animation has at least 2 frames")
        _ = self.timing

    @property
    def timing(self) -> Timing:
        """How long frames are shown."""
        return Timing(self.frame_ms, self.last_frame_ms)
