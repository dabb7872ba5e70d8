"""Whether a JPEG holds its whole image. Decoders fill what is missing with grey, and say so to nobody.

A look that costs nothing tells the doubtful ones (`is_doubtful`), and only these are examined. Not found are bytes that
were overwritten in the middle, where a decoder comes out at the right end by chance, and files in arithmetic coding.
"""

import io
import math
import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitpe.errors import VitpeError

END: Final = b"\xff\xd9"
FORMATS: Final = ("JPEG", "MPO")
_FILLED: Final = b"\x80\x80\x80"
"""What libjpeg gives for blocks that the file does not hold."""
_HOLE: Final = bytes(64)
_MIN_QUIET_BYTES: Final = 1024
_QUIET_SHARE: Final = 0.3  # of a file, at its end, without the byte 0xFF, which codes have about every 200 bytes
_LOOSE_BYTES: Final = 64
_LOOSE_SHARE: Final = 0.02  # so much of the data may follow the image's last code: some encoders pad

_START_OF_SCAN: Final = 0xDA
_RESTART_INTERVAL: Final = 0xDD
_HUFFMAN_TABLES: Final = 0xC4
_COEFFICIENTS: Final = 0x10  # the class of tables for all but a block's mean
_END_OF_BLOCK: Final = 0
_HUFFMAN_FRAMES: Final = (0xC0, 0xC1, 0xC2)
_PROGRESSIVE: Final = 0xC2
_NOT_FRAMES: Final = (0xC4, 0xC8, 0xCC)
_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_LOOKAHEAD: Final = b"\xff\x00" * 16  # a decoder wants to see a few bytes more than it uses
_NOISE: Final = bytes((89 * number + 31) % 251 for number in range(64))  # codes that change the image, if they are read


class ImageError(VitpeError):
    """Bytes that are no image we can read; the message says why and does not name the file."""


@dataclass(frozen=True)
class _Component:
    name: int
    across: int
    down: int


@dataclass(frozen=True)
class _Scan:
    """components: their names. first, last: of the 64 coefficients; bit: down to which it brings them. start, end: of
    its codes in the file. interval: of restart markers, in units of `num_units`, 0 for none. may_be_zero: whether bytes
    of zero in a row can be codes, of a flat part of the image.
    """

    components: tuple[int, ...]
    first: int
    last: int
    bit: int
    start: int
    end: int
    interval: int
    may_be_zero: bool


@dataclass
class Structure:
    """What the markers of a JPEG say. frame: the marker of its coding. end: where its end marker is, None without."""

    frame: int = 0
    height: int = 0
    width: int = 0
    components: list[_Component] = field(default_factory=list)
    scans: list[_Scan] = field(default_factory=list)
    end: int | None = None

    def num_units(self, scan: _Scan) -> int:
        """How many blocks, or groups of blocks where it holds several components, a scan is made of."""
        most_across = max(component.across for component in self.components)
        most_down = max(component.down for component in self.components)
        if len(scan.components) > 1:
            return math.ceil(self.width / (8 * most_across)) * math.ceil(self.height / (8 * most_down))
        only = next(component for component in self.components if component.name == scan.components[0])
        across = math.ceil(math.ceil(self.width * only.across / most_across) / 8)
        return across * math.ceil(math.ceil(self.height * only.down / most_down) / 8)

    @property
    def is_in_one_scan(self) -> bool:
        """As nearly all are: then the image is decoded from top to bottom."""
        return self.frame != _PROGRESSIVE and len(self.scans[0].components) == len(self.components)


def is_doubtful(data: bytes, pixels: NDArray[np.uint8]) -> bool:
    """Whether a JPEG in one scan, decoded to `pixels` (3, H, W), may lack a part; True is seldom, and may be wrong."""
    return (
        pixels[:, -1, -1].tobytes() == _FILLED
        or not data.endswith(END)
        or _HOLE in data
        or len(data) - data.rfind(b"\xff", 0, -2) > max(_MIN_QUIET_BYTES, _QUIET_SHARE * len(data))
    )


def check_whole(data: bytes, pixels: NDArray[np.uint8], doubtful: bool) -> None:
    """ImageError saying what is missing, when the file does not hold all of the image that its header promises.

    pixels: (3, H, W) as decoded, by Pillow where it is in several scans. doubtful: False spares files in one scan.
    """
    found = read_structure(data)
    if found is None or found.frame not in _HUFFMAN_FRAMES:
        return
    if found.end is None:
        raise ImageError(f"the JPEG is damaged or cut short: no end marker in {len(data):,} bytes")
    _check_holes(data, found)
    _check_restarts(data, found)
    if not found.is_in_one_scan:
        _check_complete(found)
        _check_scans(data, found, pixels)
    elif doubtful:
        _check_codes(data, found.end, found.scans[0], pixels)


def missing_part(data: bytes) -> ImageError | None:
    """Of a file that a decoder refuses as truncated: how much is missing, None where that is not what is wrong."""
    found = read_structure(data)
    try:
        if found is not None:
            _check_holes(data, found)
            if not found.is_in_one_scan:
                _check_complete(found)
        pixels = _decode(data + END)
    except ImageError as error:
        return error
    except Exception:  # decoders raise nearly anything on damaged bytes
        return None
    rows = _filled_rows(pixels)
    return _cut_short(rows / pixels.shape[1]) if rows else None


def _cut_short(share: float) -> ImageError:
    """share: of the rows."""
    missing = f"the lower {share:.0%} of the image" if share >= 0.005 else "the image's end"
    return ImageError(f"the JPEG is cut short: {missing} is missing")


def _check_codes(data: bytes, end: int, scan: _Scan, pixels: NDArray[np.uint8]) -> None:
    """Of an only scan: that its codes suffice for all blocks, and that hardly any are left over."""
    if not _suffices(data[:end] + _LOOKAHEAD):
        raise _cut_short(_filled_rows(pixels) / pixels.shape[1])
    spare = max(_LOOSE_BYTES, round(_LOOSE_SHARE * (end - scan.start)))
    if end - spare > scan.start and _suffices(data[: end - spare]):
        raise ImageError(f"the JPEG is damaged: more than {spare:,} bytes of its data are left over")


def _suffices(data: bytes) -> bool:
    """Whether a JPEG without an end marker, and in one scan, holds all blocks: Pillow then wants no more bytes."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.draft("L", (1, 1))  # the codes alone count, so the pixels are computed at an eighth of the size
        try:
            image.load()
        except OSError:
            return False
    return True


def _check_holes(data: bytes, found: Structure) -> None:
    for scan in found.scans:
        start = -1 if scan.may_be_zero else data.find(_HOLE, scan.start, scan.end)
        if start >= 0:
            length = scan.end - start - len(data[start : scan.end].lstrip(b"\0"))
            raise ImageError(f"the JPEG is damaged: {length:,} bytes of its data are zeros, from byte {start:,}")


def _check_restarts(data: bytes, found: Structure) -> None:
    for scan in found.scans:
        if scan.interval:
            intervals = math.ceil(found.num_units(scan) / scan.interval)
            there = 1 + sum(1 for _ in _RESTART.finditer(data, scan.start, scan.end))
            if there < intervals:
                share = f"{intervals - there:,} of its {intervals:,} restart intervals"
                raise ImageError(f"the JPEG is cut short: {share} are missing")


def _check_complete(found: Structure) -> None:
    """That the scans bring every coefficient of every component, to the last bit."""
    missing = {(component.name, k): True for component in found.components for k in range(64)}
    for scan in found.scans:
        for name in scan.components:
            for k in range(scan.first, min(scan.last, 63) + 1):
                missing[name, k] = missing.get((name, k), False) and scan.bit > 0
    count = sum(missing.values())
    if count:
        parts = f"{count} of {len(missing)} coefficients incomplete"
        raise ImageError(f"the JPEG is cut short: it ends after {len(found.scans)} scans, with {parts}")


def _check_scans(data: bytes, found: Structure, pixels: NDArray[np.uint8]) -> None:
    """Of several scans: a scan whose codes do not suffice would read on into noise that follows them."""
    parts, at = [], 0
    for scan in found.scans:
        parts += [data[at : scan.end], _NOISE]
        at = scan.end
    changed = (pixels != _decode(b"".join([*parts, data[at:]]))).any(axis=(0, 2))
    if changed.any():
        share = int(changed.argmax()) / len(changed)
        raise ImageError(
            f"the JPEG is cut short: one of its {len(found.scans)} scans ends after {share:.0%} of the rows"
        )


def _decode(data: bytes) -> NDArray[np.uint8]:
    """(3, H, W) by Pillow, which in contrast to torchvision lets libjpeg's warnings not reach stderr."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _filled_rows(pixels: NDArray[np.uint8]) -> int:
    """How many rows at the bottom have nothing but the last pixel's colour."""
    there = (pixels != pixels[:, -1:, -1:]).any(axis=(0, 2))
    return int(there[::-1].argmax()) if there.any() else len(there)


def read_structure(data: bytes) -> Structure | None:
    """Of the first image in the file; None where the bytes up to its first scan make no sense."""
    found, at, interval = Structure(), 2, 0
    zero_means: dict[int, int] = {}  # a Huffman table's class and number → the symbol whose code is all zeros
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == END[1]:
            found.end = at
            break
        body = data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
        start = at + 4 + len(body)
        at = start
        try:
            if marker == _RESTART_INTERVAL:
                interval = int.from_bytes(body[:2])
            elif marker == _HUFFMAN_TABLES:
                while body:
                    zero_means[body[0]] = body[17]
                    body = body[17 + sum(body[1:17]) :]
            elif 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
                found.frame = marker
                found.height, found.width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
                places = range(6, 6 + 3 * body[5], 3)
                found.components = [_Component(body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in places]
            elif marker == _START_OF_SCAN:
                names = tuple(body[1 : 1 + 2 * body[0] : 2])
                first, last, bits = body[-3:] if found.frame == _PROGRESSIVE else (0, 63, 0)
                tables = {_COEFFICIENTS | number & 15 for number in body[2 : 2 + 2 * body[0] : 2]}
                flat = all(zero_means.get(table, _END_OF_BLOCK) == _END_OF_BLOCK for table in tables)
                after = _AFTER_SCAN.search(data, start)
                at = len(data) if after is None else after.start()
                may_be_zero = flat or found.frame == _PROGRESSIVE
                found.scans.append(_Scan(names, first, last, bits & 15, start, at, interval, may_be_zero))
        except (IndexError, ValueError):  # the file ends within
            break
    if data[at : at + 2] == END:
        found.end = at
    known = {component.name for component in found.components}
    if not found.scans or not known or not all(known.issuperset(scan.components) for scan in found.scans):
        return None
    return found if all(component.across and component.down for component in found.components) else None
