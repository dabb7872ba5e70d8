"""Frames → one animation file. All frames share one palette, so nothing is dithered and nothing flickers."""

import importlib
import io
import tempfile
from pathlib import Path

import imageio.v2
import imageio.v3 as iio
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vitpe.errors import VitpeError
from vitpe.files import provide_temporary_folder, write_atomic
from vitpe.outputs import MARK, PNG_SOFTWARE, refuse_foreign
from vitpe.viz.colours import TRANSPARENT, Palette, Pixels
from vitpe.viz.options import AnimationFormat, Timing


def write_animation(frames: Pixels, palette: Palette, timing: Timing, file_format: AnimationFormat, path: Path) -> Path:
    """Write frames (T, H, W) of palette indices, T ≥ 2, as an endless loop; returns what was written.

    path: without suffix; gif, mp4 and webp add theirs, png-frames makes it a folder of 0000.png, 0001.png, …
    Raises VitpeError when the place cannot be written and when mp4 has no encoder.
    """
    refuse_foreign(path.with_suffix(f".{file_format}"))
    match file_format:
        case "gif":
            return _write(path.with_suffix(".gif"), _gif(frames, palette, timing))
        case "webp":
            return _write(path.with_suffix(".webp"), _webp(frames, palette, timing))
        case "mp4":
            return _write(path.with_suffix(".mp4"), _mp4(frames, palette, timing))
        case "png-frames":
            return _write_pngs(frames, palette, path)


def png(pixels: Pixels) -> bytes:
    """RGB pixels (H, W, 3) as a PNG file."""
    origin = PngInfo()
    origin.add_text("Software", PNG_SOFTWARE)
    data: bytes = iio.imwrite("<bytes>", pixels, extension=".png", plugin="pillow", optimize=False, pnginfo=origin)
    return data


def _gif(frames: Pixels, palette: Palette, timing: Timing) -> bytes:
    """Pixels that stay as they were become transparent, and frames without any change are added to the one before."""
    data: bytes = iio.imwrite(
        "<bytes>",
        frames,
        extension=".gif",
        plugin="pillow",
        mode="P",
        is_batch=True,
        palette=palette.colours.tobytes(),
        transparency=TRANSPARENT,
        optimize=True,
        comment=MARK,
        duration=[10 * int(duration / 10 + 0.5) for duration in timing.durations(len(frames))],  # or they are cut
        loop=0,
    )
    return data


def _webp(frames: Pixels, palette: Palette, timing: Timing) -> bytes:
    """Lossless. Pillow alone takes frames with a palette, at a quarter of the memory."""
    pictures = [Image.fromarray(frame, mode="P") for frame in frames]
    for picture in pictures:
        picture.putpalette(palette.colours.tobytes())
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=pictures[1:],
        lossless=True,
        quality=40,  # for lossless files: effort, 0 to 100
        method=2,
        xmp=MARK.encode(),
        duration=timing.durations(len(frames)),
        loop=0,
    )
    return buffer.getvalue()


def _mp4(frames: Pixels, palette: Palette, timing: Timing) -> bytes:
    """H.264 at one picture per `frame_ms`, the last one repeated for as long as it is held."""
    try:
        importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:  # the package, or the program in it
        raise VitpeError(
            f"mp4 needs imageio-ffmpeg: {error}", hint="pip install 'vitpe[video]', or choose gif or webp"
        ) from error
    provide_temporary_folder()
    num_held = max(1, round(timing.last_frame_ms / timing.frame_ms))
    # The colours of video are stored for blocks of 2 × 2 pixels, so both sides must be even.
    even = [(0, frames.shape[1] % 2), (0, frames.shape[2] % 2)]
    with tempfile.TemporaryDirectory(prefix="vitpe-") as folder:
        path = Path(folder) / "animation.mp4"
        with imageio.v2.get_writer(
            path,
            format="FFMPEG",
            fps=1000 / timing.frame_ms,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-metadata", f"comment={MARK}", "-crf", "18", "-movflags", "+faststart"],
        ) as writer:
            for frame in [*frames, *[frames[-1]] * (num_held - 1)]:
                writer.append_data(palette.to_rgb(np.pad(frame, even, mode="edge")))  # type: ignore[attr-defined]
        return path.read_bytes()


def _write_pngs(frames: Pixels, palette: Palette, folder: Path) -> Path:
    make_folder(folder)
    digits = max(4, len(str(len(frames) - 1)))
    paths = [folder / f"{number:0{digits}d}.png" for number in range(len(frames))]
    for path in paths:
        refuse_foreign(path)
    for path, frame in zip(paths, frames, strict=True):
        write_atomic(path, png(palette.to_rgb(frame)))
    return folder


def _write(path: Path, data: bytes) -> Path:
    write_atomic(path, data)
    return path


def make_folder(folder: Path) -> None:
    """Create a folder and those above it. Raises VitpeError when that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitpeError(
            f"cannot create the folder {folder}: {error.strerror or error}", hint="choose another folder"
        ) from error
