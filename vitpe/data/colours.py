"""Colours as their file means them: ICC profiles to sRGB, and depths of 9 to 16 bits to 8."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitpe.data.jpeg import ImageError

Tell = Callable[[str], None]
"""Called with what is doubtful about an image, a few words that fit behind its name."""
ToSrgb = Callable[[Image.Image], Image.Image]
"""A Pillow image of any mode → mode RGB, in sRGB."""

_INPUT_MODES: Final = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SAME_LEVELS: Final = 3  # of 255, by which a profile may differ from sRGB to count as sRGB
_FULL: Final = 0xFFFF
_DIM: Final = 0x1000  # a sixteenth of the range
_DARK: Final = "it uses less than a sixteenth of its 16 bits' range and is seen nearly black"
_MAX_SAMPLE_VALUE: Final = 281  # a tag of TIFF, as the next
_BITS_PER_SAMPLE: Final = 258


def to_srgb(image: Image.Image, tell: Tell) -> ToSrgb | None:
    """What brings `image` to sRGB by its colour profile; None without one, for sRGB, and where it is of no use."""
    profile = image.info.get("icc_profile")
    if not profile or not isinstance(profile, bytes):
        return None
    try:
        mode, transform = _transform(profile)
    except Exception:  # LittleCMS' own errors, and all that comes of bytes that are no profile
        tell("its colour profile cannot be read and is ignored")
        return None
    if transform is None:
        return None
    if (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and image.mode not in ("1", "L", "LA", "I;16", "I")):
        tell(f"its colour profile is for other colours ({mode}, not {image.mode}) and is ignored")
        return None

    def apply(picture: Image.Image) -> Image.Image:
        out: Image.Image = transform.apply(picture if picture.mode == mode else picture.convert(mode))
        return out

    return apply


@lru_cache(maxsize=32)  # most images of a folder have the same
def _transform(profile: bytes) -> tuple[str, Any]:
    """The mode that the profile is for, and Pillow's transform to sRGB, None where that would change nothing to see."""
    import io

    from PIL import ImageCms

    opened = ImageCms.getOpenProfile(io.BytesIO(profile))
    mode = _INPUT_MODES[opened.profile.xcolor_space]
    intent = ImageCms.Intent.PERCEPTUAL
    transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
    if mode == "CMYK":
        return mode, transform
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * 3, indexing="ij"), -1).reshape(27, 27, 3)
    probe = Image.fromarray(grid) if mode == "RGB" else Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    change = np.asarray(transform.apply(probe), dtype=int) - np.asarray(probe.convert("RGB"), dtype=int)
    return mode, transform if abs(change).max() > _SAME_LEVELS else None


def stated_bits(image: Image.Image, data: bytes) -> int | None:
    """How many bits of each value count, by what the file says; None where it says nothing, or 16."""
    if image.format == "PNG":
        bits = _png_significant_bits(data)
    elif image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        largest = tags.get(_MAX_SAMPLE_VALUE)
        largest = largest[0] if isinstance(largest, tuple) and largest else largest
        bits = max((1, *tags.get(_BITS_PER_SAMPLE, ())))
        # The largest value that occurs stands there, too; that of a depth is a power of two less one.
        if bits == 16 and isinstance(largest, int) and largest > 0xFF and largest & (largest + 1) == 0:
            bits = largest.bit_length()
    else:
        return None
    return bits if bits is not None and 8 < bits < 16 else None


def full_scale(values: NDArray[np.uint16], bits: int | None, tell: Tell) -> int:
    """The value that means white: 65535, or less where `bits` are stated and the values are kept in their low bits."""
    largest = int(values.max())
    if bits is not None and largest < 1 << bits and not _is_scaled_up(values, bits):
        return (1 << bits) - 1
    if largest < _DIM:
        tell(_DARK)
    return _FULL


def has_deep_colours(image: Image.Image, data: bytes) -> bool:
    """Whether it has several channels of 16 bits, of which Pillow keeps the upper 8."""
    if image.format == "PNG":
        return data[24:25] == b"\x10" and image.mode in ("RGB", "RGBA", "LA")
    tags: Any = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and image.mode in ("RGB", "RGBA", "CMYK") and 16 in tags.get(_BITS_PER_SAMPLE, ())


def from_deep_colours(image: Image.Image, data: bytes, tell: Tell) -> Image.Image:
    """An image with 16 bits a channel, loaded, with 8; where Pillow's upper 8 hold nothing, from the lower ones.

    Raises ImageError where the file says that they count, and they cannot be had.
    """
    alpha = image.mode.endswith("A")
    upper = int(np.asarray(image)[..., : len(image.getbands()) - alpha].max())
    if upper << 8 >= _DIM or image.mode == "CMYK":
        return image
    bits = stated_bits(image, data)
    if bits is None:
        tell(_DARK)
        return image
    values = _png_values(data) if image.format == "PNG" else None
    if values is None:
        raise ImageError(f"{bits} bits a channel, stored in 16, are read of grey images alone")
    full = full_scale(values[..., :-1] if alpha else values, bits, tell)
    scaled = (values.astype(np.float32) * (255 / full)).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(scaled)


def _is_scaled_up(values: NDArray[np.uint16], bits: int) -> bool:
    """Whether the values fill 16 bits as PNG asks for: shifted up, the low bits zero or a copy of the upper ones."""
    low = values & ((1 << (16 - bits)) - 1)
    return not low.any() or bool((low == values >> bits).all())


def _png_significant_bits(data: bytes) -> int | None:
    """The most that its sBIT chunk states for a channel."""
    at = 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if kind == b"sBIT":
            return max(data[at + 8 : at + 8 + min(length, 4)], default=None)
        if kind == b"IDAT":
            return None
        at += 12 + length
    return None


def _png_values(data: bytes) -> NDArray[np.uint16] | None:
    """(H, W, C) as they are stored, by torchvision; None where it cannot."""
    import torch

    try:
        import torchvision.io  # noqa: F401  registers torch.ops.image

        decoded = torch.ops.image.decode_png.default(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, False)
    except (ImportError, AttributeError, TypeError, RuntimeError):
        return None
    values: NDArray[np.uint16] = decoded.permute(1, 2, 0).numpy()
    return values if values.dtype == np.uint16 else None
