"""Image bytes → uint8 (3, H, W) RGB, whatever the format; and the crop that fits a photo to the model. Torch-free.

Pillow decodes everything. Where torch is loaded anyhow, torchvision's decoder takes plain JPEGs: the same pixels,
sooner (see `use_torchvision`).
"""

import io
import struct
import threading
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vitpe.data import jpeg
from vitpe.data.colours import Tell, ToSrgb, from_deep_colours, full_scale, has_deep_colours, stated_bits, to_srgb
from vitpe.data.image_files import MAX_BYTES, MAX_PIXELS, formats
from vitpe.data.jpeg import ImageError as ImageError

_MAX_WEBP_PIXELS: Final = 40_000_000  # its decoder takes 21 bytes a pixel on the way, twice what others do
MIN_SIDE: Final = 8
_MAX_VISITS: Final = 12 * MAX_PIXELS
"""Of pixels by a JPEG's scans: a progressive file comes back to each pixel as often as it likes, usually ten times."""
_BAND_PIXELS: Final = 1 << 22

_SCAN_MARKER: Final = b"\xff\xda"
_MIN_SCAN_BYTES: Final = 10
_START_OF_FRAME: Final = (0xC0, 0xC1)  # baseline, extended
_PLAIN_SEGMENTS: Final = frozenset({0xC4, 0xDB, 0xFE, *range(0xE0, 0xF0)}) - {0xE1, 0xE2}  # EXIF or XMP, ICC profiles
_RGB: Final = 3  # torchvision.io.ImageReadMode.RGB

Pixels = NDArray[np.uint8]
"""(3, H, W) RGB. In memory the channels are last, as decoders leave them."""
_JpegDecoder = Callable[[bytes], Pixels | None]
"""None for what it gives up on: Pillow says why, or knows better."""

_ORIENTATION: Final = 0x0112  # the EXIF tag
_TRANSPOSED: Final = frozenset({5, 6, 7, 8})
_FLIPPED: Final = {2: (-1,), 3: (-1, -2), 4: (-2,), 6: (-1,), 7: (-1, -2), 8: (-2,)}
"""EXIF orientation → axes to mirror after transposing."""


def _silent(_: str) -> None:
    pass


def decode(data: bytes, tell: Tell = _silent) -> Pixels:
    """(3, H, W) uint8 RGB, turned upright by its EXIF orientation; the first frame of an animation.

    Transparency is laid over white, grey and palette images become RGB, 16-bit ones are scaled to 8, and colours with a
    profile become sRGB. tell: called with what is doubtful, a few words each.
    Raises ImageError for anything that is not a whole image of at most MAX_PIXELS pixels.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    check_num_bytes(len(data))
    size = _plain_jpeg_size(data[: data.find(_SCAN_MARKER) + 5])
    if size is not None:
        _check_size(*size)
        _check_scans(data, *size)
        image = _decode_jpeg(data)
        if image is not None:
            if jpeg.is_doubtful(data, image):
                jpeg.check_whole(data, image, doubtful=True)
            return image
    try:
        return _decode_with_pillow(data, tell, try_torchvision=size is None)
    except ImageError:
        raise
    # Decoders raise nearly anything on damaged bytes; all of it means that this file cannot be read.
    except Exception as error:
        raise ImageError(_reason(error)) from error


class Remarks:
    """What is doubtful about images, counted: a line for each kind, however many images there are. Safe for threads."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def about(self, name: str) -> Tell:
        """What `decode` may call with a remark on the image of that name."""

        def tell(text: str) -> None:
            with self._lock:
                self._names.setdefault(text, set()).add(name)

        return tell

    def lines(self) -> tuple[str, ...]:
        """A line for each remark, with the images' count and the first of their names."""
        with self._lock:
            return tuple(
                f"{min(names)}: {text}"
                if len(names) == 1
                else f"{len(names):,} images, {min(names)} one of them: {text}"
                for text, names in self._names.items()
            )


def check_num_bytes(count: int) -> None:
    """ImageError when a file of `count` bytes is larger than any image we read: ask before reading it."""
    if count > MAX_BYTES:
        raise ImageError(f"{count:,} bytes is over the limit of {MAX_BYTES // 1_000_000} MB")


def upright_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the image that `decode` would give, by its header alone; ImageError where that says none."""
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            turned = image.getexif().get(_ORIENTATION) in _TRANSPOSED
            return image.size if turned else (image.height, image.width)
    except Exception as error:  # as in `decode`
        raise ImageError(_reason(error)) from error


def crop_and_resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """The largest centre crop of `image` (3, H, W) with the aspect of `size`, resized to `size` = (height, width).

    Bilinear, and averaged over as many pixels as become one, as Pillow does it (its "reducing" triangle filter).
    """
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image
    scale = min(height / size[0], width / size[1])
    crop_h, crop_w = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    cropped = center_crop(image, (crop_h, crop_w))
    if (crop_h, crop_w) == size:
        return cropped
    photo = Image.fromarray(np.ascontiguousarray(cropped.transpose(1, 2, 0)))
    return np.asarray(photo.resize((size[1], size[0]), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def center_crop(image: Pixels, size: tuple[int, int]) -> Pixels:
    """The middle (…, height, width) part of `image` (…, H, W)."""
    top, left = (image.shape[-2] - size[0]) // 2, (image.shape[-1] - size[1]) // 2
    return image[..., top : top + size[0], left : left + size[1]]


@lru_cache(maxsize=64)  # the headers of a dataset's images are equal, mostly
def _plain_jpeg_size(header: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG declares; None for other formats and all but the plainest JPEGs.

    header: the file up to the number of components in its first scan. Plain is 8 bits, grey or three channels, all in
    one scan without restart markers, and no EXIF, XMP or colour profile. Pillow's parser knows the rest, and its 20 µs
    would be a tenth of the time for one of CelebA's images.
    """
    size: tuple[int, int] | None = None
    channels = 0
    at = 2
    if header[:2] != b"\xff\xd8":
        return None
    while at + 5 <= len(header) and header[at] == 0xFF:
        marker = header[at + 1]
        if marker == _SCAN_MARKER[1]:
            return size if header[at + 4] == channels else None
        if marker in _START_OF_FRAME and at + 10 <= len(header):
            precision, height, width, channels = struct.unpack_from(">BHHB", header, at + 4)
            if size is not None or precision != 8 or channels not in (1, 3):
                return None
            size = (height, width)
        elif marker not in _PLAIN_SEGMENTS:
            return None
        at += 2 + int.from_bytes(header[at + 2 : at + 4])
    return None


def use_torchvision() -> None:
    """From now on torchvision decodes plain JPEGs, for whom torch is loaded anyhow: it imports both. Where this
    torchvision cannot, all works, at the speed of Pillow.
    """
    global _decode_jpeg
    _decode_jpeg = _torchvision_decoder() or _no_decoder


def _no_decoder(_: bytes) -> None:
    pass


_decode_jpeg: _JpegDecoder = _no_decoder


@cache
def _torchvision_decoder() -> _JpegDecoder | None:
    """Tried once; None where this torchvision has no such operator.

    torchvision.io is deprecated since 0.29, and its public function says so at each call; hence the operator itself,
    and hence the trial.
    """
    import torch

    def decode_jpeg(data: bytes) -> Pixels | None:
        try:  # mode, and whether EXIF is applied
            image = torch.ops.image.decode_jpeg.default(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False
            )
        except RuntimeError:
            return None
        pixels: Pixels = image.numpy()
        return pixels

    trial = io.BytesIO()
    Image.new("L", (8, 16), 200).save(trial, "JPEG")
    try:
        import torchvision.io  # noqa: F401  registers torch.ops.image

        image = decode_jpeg(trial.getvalue())
    except (ImportError, AttributeError, TypeError):
        return None
    return decode_jpeg if image is not None and image.shape == (3, 16, 8) and bool((image == 200).all()) else None


def _decode_with_pillow(data: bytes, tell: Tell, try_torchvision: bool) -> Pixels:
    """Pillow reads the header and, unless torchvision can take them, the pixels."""
    with Image.open(io.BytesIO(data), formats=formats()) as image:
        _check_size(image.height, image.width, _MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS)
        convert = to_srgb(image, tell)
        if image.format in jpeg.FORMATS:
            _check_scans(data, image.height, image.width)
            pixels = _jpeg_pixels(image, data, try_torchvision and convert is None)
            pixels = pixels if convert is None else _pixels(image, convert)
        else:
            pixels = _other_pixels(image, data, convert, tell)
        orientation = image.getexif().get(_ORIENTATION)
    if orientation in _TRANSPOSED:
        pixels = pixels.swapaxes(-1, -2)
    return np.flip(pixels, _FLIPPED[orientation]) if orientation in _FLIPPED else pixels


def _jpeg_pixels(image: Image.Image, data: bytes, try_torchvision: bool) -> Pixels:
    found = jpeg.read_structure(data)
    simple = image.mode in ("L", "RGB") and found is not None and found.is_in_one_scan
    pixels = _decode_jpeg(data) if try_torchvision and simple else None
    if pixels is None:
        try:
            pixels = _pixels(image)
        except OSError as error:
            raise jpeg.missing_part(data) or error from error
    jpeg.check_whole(data, pixels, doubtful=not simple or jpeg.is_doubtful(data, pixels))
    return pixels


def _other_pixels(image: Image.Image, data: bytes, convert: ToSrgb | None, tell: Tell) -> Pixels:
    """Of all formats but JPEG, those with more than 8 bits a value among them."""
    image.load()
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.max() > 0xFFFF or values.min() < 0:
            raise ImageError("its pixels have 32 bits, and no known range")
        return _pixels(image, convert, full_scale(values.astype(np.uint16), stated_bits(image, data), tell))
    if image.mode == "F":
        raise ImageError("its pixels have 32 bits, and no known range")
    return _pixels(from_deep_colours(image, data, tell) if has_deep_colours(image, data) else image, convert)


def _pixels(image: Image.Image, convert: ToSrgb | None = None, white: int = 255) -> Pixels:
    """The image as (3, H, W), converted in bands of rows so that a large one is never held in two modes at once.

    convert: to sRGB, None where it is that. white: the value of it in images of mode I.
    """
    image.load()
    width, height = image.size  # after loading: Pillow turns TIFFs then
    out = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = image if bottom - top == height else image.crop((0, top, width, bottom))
        out[top:bottom] = _rgb(band, convert, white)
    return out.transpose(2, 0, 1)


def _rgb(image: Image.Image, convert: ToSrgb | None, white: int) -> NDArray[np.uint8]:
    """Any mode → (H, W, 3), over white."""
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float32) * (255 / white)
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB") if convert is None else convert(image))
    rgba = image.convert("RGBA")
    if convert is not None:
        rgba = Image.merge("RGBA", (*convert(image).split(), rgba.getchannel("A")))
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def _check_size(height: int, width: int, limit: int = MAX_PIXELS) -> None:
    if height * width > limit:
        raise ImageError(f"{width}x{height} pixels is over the limit of {limit // 1_000_000} million")
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{width}x{height} pixels is too small")


def _check_scans(data: bytes, height: int, width: int) -> None:
    if len(data) // _MIN_SCAN_BYTES * height * width <= _MAX_VISITS:
        return
    # Within a scan 0xFF is always escaped, so that this counts the scans, and at most a thumbnail's beside them.
    num_scans = data.count(_SCAN_MARKER)
    if num_scans * height * width > _MAX_VISITS:
        raise ImageError(f"{num_scans} scans of {width}x{height} pixels would take too long to decode")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in a known format ({', '.join(formats())})"
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than the limit of {MAX_PIXELS // 1_000_000} million"
    text = " ".join(str(error).split())
    return f"damaged image: {text[:120] or type(error).__name__}"
