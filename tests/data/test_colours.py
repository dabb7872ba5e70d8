"""Colour profiles and depths: what a file says of its colours is what is seen."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.fuzz.images import png_rgb16
from tests.helpers import TINY_VALUES, icc
from tests.helpers.in_process import call_vitpe
from vitpe.data.images import ImageError, decode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(40, 216, (6, 5, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
"""(48, 40, 3), in blocks that a JPEG keeps."""
IMAGE = Image.fromarray(PIXELS)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def seen(data: bytes) -> tuple[np.ndarray, list[str]]:
    """(H, W, 3) and the remarks."""
    remarks: list[str] = []
    return decode(data, remarks.append).transpose(1, 2, 0).astype(int), remarks


def differs(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a.astype(float) - b).max())


# Profiles


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("matrix", [icc.ADOBE_RGB, icc.DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
def test_wide_colours_become_srgb(matrix, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels, remarks = seen(encode(IMAGE, kind, icc_profile=icc.rgb_profile(matrix), **options))
    assert not remarks
    assert differs(pixels, icc.to_srgb(PIXELS, matrix)) <= (12 if kind == "JPEG" else 3)
    assert differs(pixels, PIXELS) > 20


def test_progressive_with_a_profile_and_a_cut_one():
    data = encode(IMAGE, "JPEG", progressive=True, icc_profile=icc.rgb_profile(icc.ADOBE_RGB))
    assert differs(seen(data)[0], icc.to_srgb(PIXELS, icc.ADOBE_RGB)) <= 12
    with pytest.raises(ImageError, match="cut short"):
        decode(data[: data.rfind(b"\xff\xda")] + b"\xff\xd9")


def test_transparency_and_palettes_have_profiles_too():
    profile = icc.rgb_profile(icc.ADOBE_RGB)
    expected = icc.to_srgb(PIXELS, icc.ADOBE_RGB)
    half = IMAGE.copy()
    half.putalpha(128)
    pixels, _ = seen(encode(half, "PNG", icc_profile=profile))
    assert differs(pixels, expected * (128 / 255) + 255 * (127 / 255)) <= 3
    few = IMAGE.quantize(30)
    pixels, _ = seen(encode(few, "PNG", icc_profile=profile))
    assert differs(pixels, icc.to_srgb(np.asarray(few.convert("RGB")), icc.ADOBE_RGB)) <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_srgb_by_whatever_profile_is_left_as_it_is(kind):
    plain = seen(encode(IMAGE, kind))[0]
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), icc.rgb_profile(icc.SRGB)):
        pixels, remarks = seen(encode(IMAGE, kind, icc_profile=profile))
        assert not remarks
        assert differs(pixels, plain) <= (2 if profile[36:] and len(profile) > 500 else 8)


def test_grey_with_a_profile():
    grey = IMAGE.convert("L")
    pixels, _ = seen(encode(grey, "PNG", icc_profile=icc.grey_profile(1.0)))
    linear = np.asarray(grey)[..., None] / 255.0
    assert differs(pixels, (255 * (1.055 * linear ** (1 / 2.4) - 0.055)).repeat(3, axis=2)) <= 3
    pixels, _ = seen(encode(grey, "JPEG", icc_profile=icc.grey_profile(1.0)))
    assert pixels.mean() > np.asarray(grey).mean() + 30


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_by_their_profile_and_without(kind):
    inks = Image.new("CMYK", (40, 48), (255, 0, 0, 0))
    with_profile, remarks = seen(encode(inks, kind, icc_profile=icc.cmyk_profile(icc.INKS)))
    assert not remarks
    assert differs(with_profile, np.full(3, 119)) <= 4  # L* of 50
    assert differs(seen(encode(inks, kind))[0], np.array((0, 255, 255))) <= 4
    white = encode(Image.new("CMYK", (40, 48)), kind, icc_profile=icc.cmyk_profile(icc.INKS))
    assert seen(white)[0].min() >= 250


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_profile_that_is_none_is_ignored_with_a_remark(kind):
    sound = icc.rgb_profile(icc.ADOBE_RGB)
    plain = seen(encode(IMAGE, kind))[0]
    broken = (b"no profile", sound[:200], sound[:128] + bytes(300), b"\xff" * 500)
    foreign = (
        icc.grey_profile(2.2),
        icc.grey_profile(1.0),
        icc.cmyk_profile(icc.INKS),
    )
    for profile in broken:
        pixels, remarks = seen(encode(IMAGE, kind, icc_profile=profile))
        assert remarks == ["its colour profile cannot be read and is ignored"]
        assert differs(pixels, plain) <= 2
    for profile in foreign:
        pixels, remarks = seen(encode(IMAGE, kind, icc_profile=profile))
        assert "and is ignored" in remarks[0]
        assert differs(pixels, plain) <= 2


# Depths

RAMP = (np.arange(48 * 40) * 4095 // (48 * 40 - 1)).astype(np.uint16).reshape(48, 40)
"""12 bits."""
SHOWN = RAMP * (255 / 4095)
DARK = ["it uses less than a sixteenth of its 16 bits' range and is seen nearly black"]


def with_sbit(png: bytes, *bits: int) -> bytes:
    chunk = b"sBIT" + bytes(bits)
    return png[:33] + struct.pack(">I", len(bits)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def test_12_bits_in_16_by_pngs_word():
    pixels, remarks = seen(with_sbit(encode(Image.fromarray(RAMP), "PNG"), 12))
    assert differs(pixels, SHOWN[..., None]) <= 1
    assert not remarks


@pytest.mark.parametrize("scale", [lambda v: v << 4, lambda v: v << 4 | v >> 8], ids=["shifted", "copied"])
def test_12_bits_that_fill_16_as_png_asks_for(scale):
    pixels, _ = seen(with_sbit(encode(Image.fromarray(scale(RAMP)), "PNG"), 12))
    assert differs(pixels, SHOWN[..., None]) <= 1
    dim, remarks = seen(with_sbit(encode(Image.fromarray(scale(RAMP // 32)), "PNG"), 12))
    assert dim.max() <= 9
    assert remarks == DARK


@pytest.mark.parametrize(("bits", "largest"), [(10, 1023), (12, 4095), (14, 16383)])
def test_a_tiffs_largest_value(bits, largest):
    values = (RAMP.astype(np.uint32) * largest // 4095).astype(np.uint16)
    data = encode(Image.fromarray(values), "TIFF", tiffinfo={281: largest})
    assert differs(seen(data)[0], SHOWN[..., None]) <= 2


def test_12_bits_as_tiff_packs_them():
    packed = b"".join(
        bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in RAMP.reshape(-1, 2).astype(int).tolist()
    )
    data = bytearray(encode(Image.fromarray(RAMP), "TIFF"))
    raw = RAMP.astype("<u2").tobytes()
    start = bytes(data).find(raw)
    tag = bytes(data).find(b"\x02\x01\x03\x00\x01\x00\x00\x00\x10\x00")
    assert start > 0
    assert tag > 0
    data[tag + 8] = 12
    data[start : start + len(raw)] = packed.ljust(len(raw), b"\0")
    count = bytes(data).find(b"\x17\x01\x04\x00\x01\x00\x00\x00")
    data[count + 8 : count + 12] = len(packed).to_bytes(4, "little")
    assert differs(seen(bytes(data))[0], SHOWN[..., None]) <= 1


def test_colours_of_12_bits_in_16():
    values = np.stack([RAMP, RAMP[::-1], RAMP // 2], -1)
    pixels, remarks = seen(with_sbit(png_rgb16(values), 12, 12, 12))
    assert differs(pixels, values * (255 / 4095)) <= 1
    assert not remarks


def test_16_bits_that_use_little_of_their_range_are_remarked():
    for data in (
        encode(Image.fromarray(RAMP), "PNG"),
        encode(Image.fromarray(RAMP), "TIFF"),
        png_rgb16(RAMP[..., None].repeat(3, 2)),
    ):
        pixels, remarks = seen(data)
        assert pixels.max() <= 16
        assert remarks == DARK
    assert not seen(encode(Image.fromarray((RAMP << 1).astype(np.uint16)), "PNG"))[1]


def test_remarks_are_counted(predicted, celeba, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(RAMP).save(photos / name)
    IMAGE.save(photos / "c.png", icc_profile=b"no profile")
    called = predicted(photos)
    assert called.code == 0
    assert set(called.stderr.splitlines()) == {
        f"2 images, {photos}/a.png one of them: {DARK[0]}",
        f"{photos}/c.png: its colour profile cannot be read and is ignored",
    }
    (tmp_path / "labels.csv").write_text("path,Old,split\na.png,1,train\nb.png,0,train\nc.png,0,valid\n")
    options = [
        f"--set={key}={str(value).lower()}"
        for key, value in (TINY_VALUES | {"train.steps": 2, "train.num_checkpoints": 1, "train.num_evals": 1}).items()
    ]
    trained = call_vitpe(
        "train",
        "--data",
        photos,
        "--labels",
        tmp_path / "labels.csv",
        "--run",
        tmp_path / "run",
        "--device",
        "cpu",
        *options,
    )
    assert trained.code == 0, trained.stderr
    assert f"2 images, a.png one of them: {DARK[0]}" in trained.stderr.splitlines()
    assert "c.png: its colour profile cannot be read and is ignored" in trained.stderr.splitlines()


def test_threads_share_a_transform():
    data = encode(IMAGE, "PNG", icc_profile=icc.rgb_profile(icc.ADOBE_RGB))
    expected = decode(data)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(found, expected) for found in pool.map(decode, [data] * 40))
