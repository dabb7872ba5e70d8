"""JPEGs that lost a part: what a decoder fills with grey is refused, and what is merely grey is not."""

import random

import numpy as np
import pytest
from PIL import Image

from tests.helpers import encode
from vitpe.data import jpeg
from vitpe.data.file_samples import FileSamples
from vitpe.data.image_files import FolderFiles
from vitpe.data.images import ImageError, decode
from vitpe.errors import VitpeError

END = b"\xff\xd9"
RNG = np.random.default_rng(0)
SMOOTH = Image.fromarray(RNG.integers(0, 256, (27, 22, 3), dtype=np.uint8)).resize((178, 218), Image.Resampling.BICUBIC)
NOISE = Image.fromarray(RNG.integers(0, 25, (218, 178, 3), dtype=np.uint8))
PHOTO = Image.blend(SMOOTH, NOISE, 0.3)


def on(colour: tuple[int, int, int]) -> Image.Image:
    """A small picture at the top of much that is flat."""
    image = Image.new("RGB", (300, 400), colour)
    image.paste(PHOTO.resize((80, 60)), (40, 20))
    return image


EXIF = Image.Exif()
EXIF[0x0112] = 1
KINDS = {
    "baseline": {},
    "own tables": {"optimize": True},
    "full chroma": {"subsampling": 0},
    "fine": {"quality": 98},
    "restarts": {"restart_marker_blocks": 7},
    "restarts a row": {"restart_marker_rows": 1},
    "exif": {"exif": EXIF},
    "progressive": {"progressive": True},
    "progressive restarts": {"progressive": True, "restart_marker_blocks": 11},
}
MODES = ("RGB", "L", "CMYK")


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value.message


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_missing_is_said(kind, mode):
    data = encode(PHOTO.convert(mode), **KINDS[kind])
    rng = random.Random(0)
    for share in (40, 60, 80, 95):
        kept = data[: len(data) * share // 100]
        lost = len(data) - len(kept)
        assert "the JPEG is cut short: " in refusal(kept + END)
        assert "the JPEG is " in refusal(kept + END + b"after the end")
        refusal(kept)
        refusal(kept + bytes(lost))
        refusal(kept + rng.randbytes(lost).replace(b"\xff", b"\xfe"))
        if lost > 400 and "progressive" not in kind:  # there zeros can be codes, if seldom so many
            assert "of its data are zeros" in refusal(kept + bytes(lost - 2) + END) or mode == "CMYK"
            assert "the JPEG is " in refusal(kept + bytes(200) + data[len(kept) + 200 :])


@pytest.mark.parametrize("colour", [(128, 128, 128), (127, 128, 129), (0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("kind", KINDS)
def test_flat_parts_are_whole(kind, colour):
    for image in (on(colour), Image.new("RGB", (256, 256), colour)):
        for mode in MODES:
            data = encode(image.convert(mode), **KINDS[kind])
            for more in (b"", b"\n", bytes(2000), b"\xff" * 7):
                decode(data + more)


@pytest.mark.parametrize("share", [20, 50, 90])
def test_how_much_is_missing_is_about_right(share):
    data = encode(PHOTO, quality=90)
    start = data.find(b"\xff\xda")
    message = refusal(data[: start + (len(data) - start) * (100 - share) // 100] + END)
    assert abs(int(message.split("lower ")[1].split("%")[0]) - share) < 12


def test_a_progressive_file_without_its_last_scans():
    data = encode(PHOTO, progressive=True)
    last = data.rfind(b"\xff\xda")
    message = refusal(data[:last] + END)
    assert message == "the JPEG is cut short: it ends after 9 scans, with 63 of 192 coefficients incomplete"


def test_a_restart_interval_that_is_missing_within():
    data = encode(PHOTO, restart_marker_blocks=10)
    start, end = (data.find(bytes((0xFF, 0xD0 + number))) for number in (2, 3))
    assert "1 of its 17 restart intervals" in refusal(data[:start] + data[end:])


def test_a_cut_exactly_between_two_restart_intervals():
    data = encode(PHOTO, restart_marker_rows=1)
    assert "restart intervals are missing" in refusal(data[: data.find(b"\xff\xd5")] + END)


def test_components_in_scans_of_their_own():
    """Sequential, yet in three scans: libjpeg decodes the first alone as a grey image."""
    data = encode(PHOTO.convert("L"))
    frame, scan = data.find(b"\xff\xc0"), data.find(b"\xff\xda")
    body, table = data[scan + 10 : -2], data[scan + 6]
    three = bytes((0xFF, 0xC0, 0, 17, 8)) + data[frame + 5 : frame + 9] + b"\x03"
    three += b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    scans = [bytes((0xFF, 0xDA, 0, 8, 1, number, table, 0, 63, 0)) + body for number in (1, 2, 3)]
    head = data[:frame] + three + data[frame + 13 : scan]
    assert decode(head + b"".join(scans) + END).shape == (3, 218, 178)
    assert "with 64 of 192 coefficients incomplete" in refusal(head + b"".join(scans[:2]) + END)


def test_structure_of_any_bytes():
    rng = random.Random(3)
    data = encode(PHOTO, progressive=True, restart_marker_blocks=9)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 9)):
            damaged[rng.randrange(700)] = rng.randrange(256)
        jpeg.read_structure(bytes(damaged[: rng.randrange(len(data))]))


def test_training_names_the_file(tmp_path):
    data = encode(PHOTO)
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2] + END)
    names = ["whole.jpg", "half.jpg"]
    labels = np.zeros((2, 1), dtype=np.uint8)
    samples = FileSamples("labelled_csv", ("Smiling",), names, labels, (218, 178), FolderFiles(tmp_path), names)
    samples.read([0])
    with pytest.raises(VitpeError, match=r"half\.jpg: the JPEG is cut short: the lower \d+% of the image is missing"):
        samples.read([0, 1])
