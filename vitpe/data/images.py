"""Image bytes → uint8 (3, H, W) RGB, whatever the format; and the crop that fits a photo to the model.

JPEGs go through torchvision (fast, releases Python's lock); all other formats through Pillow.
"""

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import resize

from vitpe.errors import VitpeError

MAX_PIXELS: Final = 64_000_000
"""A larger declared size is refused before decoding: it would take a gigabyte."""
MIN_SIDE: Final = 8
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ImageError(VitpeError):
    """Bytes that are no image we can read; the message says why and does not name the file."""


def decode(data: bytes) -> Tensor:
    """(3, H, W) uint8 RGB, turned upright by its EXIF orientation; the first frame of an animation.

    Transparency is laid over white, grey and palette images become RGB, 16-bit ones keep their high byte.
    Raises ImageError for anything that is not a whole image of at most MAX_PIXELS pixels.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.width, image.height)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                return _decode_jpeg(data)
            return _from_pillow(image)
    except ImageError:
        raise
    # Decoders raise nearly anything on damaged bytes; all of it means that this file cannot be read.
    except Exception as error:
        raise ImageError(_reason(error)) from error


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest centre crop of `image` (3, H, W) with the aspect of `size`, resized to `size` = (height, width)."""
    height, width = image.shape[-2:]
    scale = min(height / size[0], width / size[1])
    crop_h, crop_w = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    cropped = center_crop(image, (crop_h, crop_w))
    if (crop_h, crop_w) == size:
        return cropped
    out: Tensor = resize(cropped, list(size), antialias=True)
    return out


def center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle (…, height, width) part of `image` (…, H, W)."""
    top, left = (image.shape[-2] - size[0]) // 2, (image.shape[-1] - size[1]) // 2
    return image[..., top : top + size[0], left : left + size[1]]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, C, H, W) in 0..255 → float32 (images / 255 - mean) / std, per channel, on the images' device."""
    scale = torch.tensor([1 / (255 * value) for value in std], device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device)
    return torch.addcmul(shift[:, None, None], images.float(), scale[:, None, None])


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) array → (3, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _decode_jpeg(data: bytes) -> Tensor:
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    out: Tensor = decode_jpeg(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return out


def _from_pillow(image: Image.Image) -> Tensor:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # 16 bits and more a pixel
        values = np.asarray(upright, dtype=np.float64)
        upright = Image.fromarray((values / 257).clip(0, 255).round().astype(np.uint8))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return to_tensor(np.asarray(upright.convert("RGB")))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels is over the limit of {MAX_PIXELS // 1_000_000} million")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width}x{height} pixels is too small")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in a known format ({', '.join(_FORMATS)})"
    text = " ".join(str(error).split())
    return f"damaged image: {text[:120] or type(error).__name__}"
