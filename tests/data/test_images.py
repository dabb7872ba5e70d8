"""Bytes → pixels: Pillow is the oracle, and nothing but an image or an ImageError ever comes out."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.fuzz import images as fuzz_images
from tests.helpers import encode
from vitpe.data import images
from vitpe.data.images import MAX_BYTES, ImageError, center_crop, check_num_bytes, crop_and_resize, decode

# Pillow warns of damage that it gets over; the command line silences it, and so do these tests.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")
RNG = np.random.default_rng(0)
SMOOTH = Image.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize((40, 56), Image.Resampling.BICUBIC)
ALPHA = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (56, 1))


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.fromarray(ALPHA))
    return image


def pillow(data: bytes) -> np.ndarray:
    """(3, H, W) by Pillow alone."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).transpose(2, 0, 1)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return (rgb * share + 255 * (1 - share)).transpose(2, 0, 1)


def largest_difference(image: np.ndarray, expected: np.ndarray) -> float:
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    return float(np.abs(image - expected.astype(np.float64)).max())


# Formats and modes


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        (SMOOTH, "JPEG", {}),
        (SMOOTH, "JPEG", {"progressive": True, "quality": 95}),
        (SMOOTH, "JPEG", {"subsampling": 0, "restart_marker_blocks": 3}),
        (SMOOTH, "JPEG", {"comment": b"a comment", "icc_profile": b"a profile"}),
        (SMOOTH.convert("L"), "JPEG", {}),
        (SMOOTH.convert("CMYK"), "JPEG", {}),
        (SMOOTH, "PNG", {}),
        (SMOOTH.convert("L"), "PNG", {}),
        (SMOOTH.convert("1"), "PNG", {}),
        (SMOOTH.quantize(20), "PNG", {}),
        (SMOOTH, "WEBP", {}),
        (SMOOTH, "GIF", {}),
        (SMOOTH, "BMP", {}),
        (SMOOTH, "TIFF", {"compression": "tiff_lzw"}),
        (SMOOTH.convert("CMYK"), "TIFF", {}),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_decodes_as_pillow_does(image, kind, options):
    data = encode(image, kind, **options)
    # two builds of libjpeg may round differently
    assert largest_difference(decode(data), pillow(data)) <= (2 if kind == "JPEG" else 0)


def test_cmyk_is_not_inverted():
    """Adobe writes the inks of CMYK JPEGs inverted."""
    red = Image.new("RGB", (16, 16), (200, 20, 30)).convert("CMYK")
    assert largest_difference(decode(encode(red, "JPEG")), pillow(encode(red, "TIFF"))) <= 4


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_over_white(mode, kind):
    image = SMOOTH.convert(mode)
    data = encode(with_alpha(image), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert largest_difference(decode(data), over_white(np.asarray(image.convert("RGB")), ALPHA)) <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_one_transparent_colour_of_a_palette_becomes_white(kind):
    image = SMOOTH.quantize(16)
    index = int(np.asarray(image)[0, 0])
    alpha = np.where(np.asarray(image) == index, 0, 255).astype(np.uint8)
    expected = over_white(np.asarray(image.convert("RGB")), alpha)
    assert largest_difference(decode(encode(image, kind, transparency=index)), expected) == 0


def test_a_palette_with_an_alpha_for_each_colour():
    image = SMOOTH.quantize(16)
    alphas = np.arange(16, dtype=np.uint8) * 17
    expected = over_white(np.asarray(image.convert("RGB")), alphas[np.asarray(image)])
    assert largest_difference(decode(encode(image, "PNG", transparency=alphas.tobytes())), expected) <= 1


def test_one_transparent_colour_of_an_rgb_png_becomes_white():
    data = encode(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert bool((decode(data) == 255).all())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_to_8(kind):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    expected = np.broadcast_to(np.arange(256).reshape(16, 16), (3, 16, 16))
    assert largest_difference(decode(encode(Image.fromarray(values), kind)), expected) == 0


def test_16_bit_rgb():
    values = RNG.integers(0, 256, (16, 12, 3)).astype(np.uint16) * 257
    assert largest_difference(decode(fuzz_images.png_rgb16(values)), (values // 257).transpose(2, 0, 1)) == 0


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert image[:, 5, 5].tolist() == [250, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_comes_out_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    data = encode(SMOOTH, kind, exif=exif, **options)
    assert decode(data).shape == ((3, 40, 56) if orientation >= 5 else (3, 56, 40))
    assert largest_difference(decode(data), pillow(data)) <= (2 if kind == "JPEG" else 0)


def test_large_images_are_converted_in_bands(monkeypatch):
    data = [encode(with_alpha(SMOOTH), "PNG"), encode(SMOOTH.quantize(9), "PNG", transparency=2)]
    whole = [decode(item) for item in data]
    monkeypatch.setattr(images, "_BAND_PIXELS", 40 * 5)
    assert all(np.array_equal(decode(item), expected) for item, expected in zip(data, whole, strict=True))


def test_without_torchvisions_decoder_the_pixels_are_the_same(monkeypatch):
    data = [encode(SMOOTH, "JPEG"), encode(SMOOTH.convert("L"), "JPEG", progressive=True)]
    monkeypatch.setattr(images, "_decode_jpeg", images._torchvision_decoder())
    fast = [decode(item) for item in data]
    called = []
    monkeypatch.setattr(images, "_decode_jpeg", called.append)
    assert all(np.array_equal(decode(item), pixels) for item, pixels in zip(data, fast, strict=True))
    assert called  # it was asked, and gave up


def test_threads_decode_side_by_side():
    data = list(fuzz_images.seeds().values())
    expected = [decode(item) for item in data]
    with ThreadPoolExecutor(8) as pool:
        for found, image in zip(pool.map(decode, data * 8), expected * 8, strict=True):
            assert np.array_equal(found, image)


# Refusals


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"hello", "not an image in a known format (JPEG, PNG, WEBP, GIF, BMP, TIFF"),
        (encode(SMOOTH.resize((7, 40)), "JPEG"), "7x40 pixels is too small"),
        (encode(SMOOTH.resize((40, 7)), "PNG"), "40x7 pixels is too small"),
        (encode(Image.fromarray(RNG.random((9, 9), dtype=np.float32)), "TIFF"), "its pixels have 32 bits, and no"),
        (encode(SMOOTH, "PPM"), "not an image in a known format"),
    ],
    ids=["empty", "text", "narrow", "flat", "float", "other format"],
)
def test_refusals_say_why(data, message):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("name", sorted(fuzz_images.seeds()))
def test_half_a_file_is_refused(name):
    data = fuzz_images.seeds()[name]
    if name in ("mpo", "gif animated", "webp animated", "png animated"):  # their first frame may be whole
        data = data[: len(data) // 3]
    with pytest.raises(ImageError):
        decode(data[: len(data) // 2])


def test_a_file_over_the_limit_is_refused_unread():
    check_num_bytes(MAX_BYTES)
    with pytest.raises(ImageError, match=r"200,000,001 bytes is over the limit of 200 MB"):
        check_num_bytes(MAX_BYTES + 1)


def declared(kind: str, side: int) -> bytes:
    """A small file whose header says side × side pixels."""
    if kind == "PNG":
        chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
        data = encode(SMOOTH, "PNG")
        return data[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    if kind.startswith("JPEG"):
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encode(SMOOTH, "JPEG", **({"exif": exif} if "exif" in kind else {"progressive": "progressive" in kind}))
        at = data.find(b"\xff\xc2" if "progressive" in kind else b"\xff\xc0")
        return data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]
    if kind == "GIF":
        data = encode(SMOOTH.quantize(9), "GIF")
        return data[:6] + struct.pack("<HH", side, side) + data[10:]
    if kind == "BMP":
        data = encode(SMOOTH, "BMP")
        return data[:18] + struct.pack("<ii", side, side) + data[26:]
    data = encode(SMOOTH, "WEBP", exif=b"Exif\0\0")  # has a VP8X header with the canvas' size
    return data[:24] + (struct.pack("<I", side - 1)[:3]) * 2 + data[30:]


def peak_memory() -> int:
    """Bytes: the most that this process has held since `reset_peak`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].removesuffix("kB")) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak")
@pytest.mark.parametrize("side", [8_000, 11_000, 16_000])
@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "JPEG exif", "PNG", "GIF", "BMP", "WEBP"])
def test_a_huge_declared_size_is_refused_before_anything_is_allocated(kind, side):
    data = declared(kind, side)
    reset_peak()
    before = peak_memory()
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert peak_memory() - before < 8_000_000
    assert "the limit of" in caught.value.message or "damaged" in caught.value.message


def test_a_jpeg_of_endless_scans_is_refused():
    """100 KB would keep a decoder busy for minutes: each scan goes over millions of pixels."""
    data = encode(SMOOTH.resize((4000, 4000)), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    with pytest.raises(ImageError, match=r"1009 scans of 4000x4000 pixels would take too long"):
        decode(data[:last] + data[last:-2] * 1000 + data[-2:])
    assert decode(data).shape == (3, 4000, 4000)


def test_damaged_images_end_as_an_image_or_an_image_error():
    """The full number is run by `python -m tests.fuzz.images`."""
    originals = fuzz_images.seeds()
    outcomes = set()
    for index in range(400):
        _, data = fuzz_images.mutant(index, originals)
        outcome, seconds = fuzz_images.check(data)
        assert seconds < fuzz_images.MAX_SECONDS
        outcomes.add(outcome)
    assert outcomes == {"decoded", "refused"}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", *(data[:12] for data in fuzz_images.seeds().values())]))
def test_any_bytes(tail, head):
    fuzz_images.check(head + tail)


# Cropping, resizing, normalising


@settings(max_examples=50, deadline=None)
@given(*[st.integers(8, 90)] * 4)
def test_fit_gives_the_size_asked_for(height, width, to_height, to_width):
    image = RNG.integers(0, 256, (3, height, width), dtype=np.uint8)
    out = crop_and_resize(image, (to_height, to_width))
    assert out.shape == (3, to_height, to_width)
    assert out.dtype == np.uint8
    if (height, width) == (to_height, to_width):
        assert np.array_equal(out, image)


def test_fit_keeps_the_largest_centre_part():
    stripes = np.broadcast_to(np.arange(40, dtype=np.uint8), (3, 20, 40))
    assert crop_and_resize(stripes, (20, 10))[0, 0].tolist() == list(range(15, 25))
    assert crop_and_resize(stripes.swapaxes(1, 2), (10, 20))[0, :, 0].tolist() == list(range(15, 25))


@pytest.mark.parametrize("size", [(20, 16), (30, 30), (112, 80)])
def test_fit_resizes_as_pillow_does(size):
    height, width = size
    scale = min(56 / height, 40 / width)
    box = (round((40 - width * scale) / 2), round((56 - height * scale) / 2))
    box = (*box, box[0] + round(width * scale), box[1] + round(height * scale))
    expected = np.asarray(SMOOTH.crop(box).resize((width, height), Image.Resampling.BILINEAR))
    image = crop_and_resize(np.array(SMOOTH).transpose(2, 0, 1), size)
    assert largest_difference(image, expected.transpose(2, 0, 1)) == 0


def test_center_crop():
    image = np.arange(5 * 6).reshape(1, 5, 6)
    assert center_crop(image, (3, 2)).tolist() == [[[8, 9], [14, 15], [20, 21]]]
