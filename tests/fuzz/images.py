"""Damaged images, by the thousand: `python -m tests.fuzz.images [COUNT]`. Image i is the same in every run.

Whatever the bytes, `decode` gives an image or raises ImageError, in under 5 s of processor time and 1 GB of memory.
"""

import collections
import io
import multiprocessing
import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized

import numpy as np
from PIL import Image

from tests.helpers import icc
from vitpe.data.image_files import formats
from vitpe.data.images import ImageError, decode

MAX_SECONDS = 5.0
MAX_BYTES = 1_000_000_000
_PART = 1000

Bytes = bytes | bytearray


def seeds() -> dict[str, bytes]:
    """Whole images in every format and mode that the mutations start from."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((56, 72), Image.Resampling.BICUBIC)
    alpha = Image.fromarray(rng.integers(0, 256, (72, 56), dtype=np.uint8))
    rgba = rgb.convert("RGBA")
    rgba.putalpha(alpha)
    palette = rgb.quantize(31)
    deep = Image.fromarray(rng.integers(0, 65536, (72, 56), dtype=np.uint16))
    frames = [rgb.rotate(angle) for angle in (0, 90, 180)]
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "camera"

    def encode(image: Image.Image, kind: str, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    avif = {"avif": encode(rgb, "AVIF"), "avif alpha": encode(rgba, "AVIF")} if "AVIF" in formats() else {}
    animation = {"save_all": True, "append_images": frames[1:], "duration": 100}
    return {
        "jpeg": encode(rgb, "JPEG", quality=85),
        "jpeg progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg restarts": encode(rgb, "JPEG", subsampling=0, restart_marker_blocks=2),
        "jpeg exif": encode(rgb, "JPEG", exif=exif),
        "jpeg grey": encode(rgb.convert("L"), "JPEG"),
        "jpeg cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "mpo": encode(rgb, "MPO", save_all=True, append_images=frames[1:]),
        "png": encode(rgb, "PNG"),
        "png exif": encode(rgb, "PNG", exif=exif),
        "png rgba": encode(rgba, "PNG"),
        "png grey alpha": encode(rgba.convert("LA"), "PNG"),
        "png palette": encode(palette, "PNG", transparency=3),
        "png palette alpha": encode(palette, "PNG", transparency=bytes(range(31))),
        "png 16 bit": encode(deep, "PNG"),
        "png 16 bit rgb": png_rgb16(rng.integers(0, 65536, (24, 20, 3), dtype=np.uint16)),
        "png 1 bit": encode(rgb.convert("1"), "PNG"),
        "png animated": encode(frames[0], "PNG", **animation),
        "webp": encode(rgb, "WEBP"),
        "webp lossless alpha": encode(rgba, "WEBP", lossless=True, exif=exif),
        "webp animated": encode(frames[0], "WEBP", **animation),
        "gif": encode(palette, "GIF", transparency=2),
        "gif interlaced": encode(palette, "GIF", interlace=1),
        "gif animated": encode(frames[0], "GIF", **animation),
        "bmp": encode(rgb, "BMP"),
        "tiff lzw": encode(rgba, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff 16 bit": encode(deep, "TIFF"),
        "jpeg profile": encode(rgb, "JPEG", icc_profile=icc.rgb_profile(icc.ADOBE_RGB)),
        "png profile": encode(rgba, "PNG", icc_profile=icc.rgb_profile(icc.DISPLAY_P3)),
        "cmyk profile": encode(rgb.convert("CMYK"), "JPEG", icc_profile=icc.cmyk_profile(icc.INKS)),
        **avif,
    }


def mutant(index: int, originals: dict[str, bytes]) -> tuple[str, bytes]:
    """(what it was, damaged bytes), a function of `index` alone."""
    rng = np.random.default_rng([1, index])
    names = list(originals)
    name = names[index % len(names)]
    data = bytearray(originals[name])
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        change = _CHANGES[int(rng.integers(len(_CHANGES)))]
        other = originals[names[int(rng.integers(len(names)))]]
        data = change(data, rng, other)
    if name.startswith("png") and rng.random() < 0.8:
        data = _with_right_checksums(data)
    return name, bytes(data)


def check(data: bytes) -> tuple[str, float]:
    """What became of it, and the seconds of processor time. AssertionError for anything but an image or ImageError."""
    began = time.process_time()
    try:
        image = decode(data)
    except ImageError as error:
        outcome = "refused"
        assert error.message
        assert "\n" not in error.message
        assert len(error.message) < 200
    else:
        outcome = "decoded"
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[0] == 3
        assert min(image.shape) > 0
    return outcome, time.process_time() - began


def _truncate(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    return data[: int(rng.integers(len(data) + 1))]


def _cut_but_end(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    """A JPEG's last part missing, but for the marker that ends it."""
    return data[: int(rng.integers(len(data) + 1))] + b"\xff\xd9"


def _flip_bits(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    for at in rng.integers(0, max(len(data), 1), int(rng.integers(1, 17))) if data else ():
        data[at] ^= 1 << int(rng.integers(8))
    return data


def _flip_header_bits(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    head = int(rng.choice([16, 64, 256]))
    return _flip_bits(data[:head], rng, other) + data[head:]


def _set_number(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    """A number near the start becomes huge, zero or negative; so do declared sizes."""
    width = int(rng.choice([1, 2, 4]))
    at = int(rng.integers(0, max(1, min(len(data) - width, 200))))
    value = int(rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
    kind = "big" if rng.random() < 0.5 else "little"
    return data[:at] + (value % (1 << 8 * width)).to_bytes(width, kind) + data[at + width :]


def _declare_size(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    """Another size in the header, each format at its place."""
    height, width = (int(rng.choice([0, 1, 7, 57, 4000, 16383, 65535])) for _ in range(2))
    if data[:4] == b"\x89PNG":
        return data[:16] + struct.pack(">II", width, height) + data[24:]
    if data[:3] == b"GIF":
        return data[:6] + struct.pack("<HH", width, height) + data[10:]
    if data[:2] == b"BM":
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    if data[12:16] == b"VP8X":
        return data[:24] + struct.pack("<I", width)[:3] + struct.pack("<I", height)[:3] + data[30:]
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = data.find(marker)
        if data[:2] == b"\xff\xd8" and at > 0:
            return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    return data


def _overwrite(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 65))
    fill = [bytes(length), b"\xff" * length, rng.bytes(length)][int(rng.integers(3))]
    return data[:at] + fill + data[at + length :]


def _insert(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 65))) + data[at:]


def _delete(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + data[at + int(rng.integers(1, 65)) :]


def _repeat(data: bytearray, rng: np.random.Generator, _other: bytes) -> bytearray:
    begin, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:end] + data[begin:end] * int(rng.integers(1, 9)) + data[end:]


def _splice(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other))) :]


_CHANGES: tuple[Callable[[bytearray, np.random.Generator, bytes], bytearray], ...] = (
    _truncate,
    _cut_but_end,
    _flip_bits,
    _flip_bits,
    _flip_header_bits,
    _set_number,
    _set_number,
    _declare_size,
    _overwrite,
    _insert,
    _delete,
    _repeat,
    _splice,
)


def _with_right_checksums(data: bytearray) -> bytearray:
    """A PNG whose chunks' checksums fit what they now hold, so that the damage is not found by them."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def png_rgb16(values: np.ndarray) -> bytes:
    """16 bits a channel, which Pillow reads but does not write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _run_part(start: int, stop: int, at: "Synchronized[int]", results: "multiprocessing.Queue[object]") -> None:
    warnings.filterwarnings("ignore", module="PIL")
    originals = seeds()
    for data in originals.values():
        check(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    slowest = 0.0
    for index in range(start, stop):
        at.value = index
        name, data = mutant(index, originals)
        outcome, seconds = check(data)
        outcomes[name, outcome] += 1
        slowest = max(slowest, seconds)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    results.put((outcomes, slowest, growth))


def main(count: int) -> int:
    """Each part runs in a process of its own, so that a crash names its image and memory is counted afresh."""
    context = multiprocessing.get_context("spawn")
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    slowest, largest, failures = 0.0, 0, 0
    for start in range(0, count, _PART):
        at, results = context.Value("q", -1), context.Queue()
        process = context.Process(target=_run_part, args=(start, min(start + _PART, count), at, results))
        process.start()
        process.join(600)
        if process.is_alive() or process.exitcode:
            failures += 1
            print(f"image {at.value}: {'no end in sight' if process.is_alive() else f'exit {process.exitcode}'}")
            process.kill()
            continue
        part, seconds, growth = results.get()
        outcomes += part
        slowest, largest = max(slowest, seconds), max(largest, growth)
    for name in seeds():
        print(f"{name:20s} decoded {outcomes[name, 'decoded']:6,d}   refused {outcomes[name, 'refused']:6,d}")
    total = {kind: sum(n for (_, k), n in outcomes.items() if k == kind) for kind in ("decoded", "refused")}
    print(
        f"{outcomes.total():,} images: {total['decoded']:,} decoded, {total['refused']:,} refused, {failures} crashes;"
    )
    print(f"slowest {slowest:.2f} s of processor time, memory grew by at most {largest / 1e6:.0f} MB")
    return int(failures > 0 or slowest > MAX_SECONDS or largest > MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
