"""Small ICC profiles, made from numbers: RGB by matrix and gamma, grey by gamma, CMYK by a table of 16 colours."""

import itertools
import struct

import numpy as np

ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
"""Linear RGB → XYZ of the D50 white, in columns red, green and blue."""
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


INKS = {corner: 0 if corner[3] else 128 if corner[0] else 255 for corner in itertools.product((0, 1), repeat=4)}
"""The lightness of a press whose first ink is a mid grey, the last black, and the others nothing."""


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    text = b"made of numbers\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(0.9642, 1.0, 0.8249),
        **tags,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + table + body


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def rgb_profile(matrix: np.ndarray, gamma: float = 2.2) -> bytes:
    xyz = {name: b"XYZ \0\0\0\0" + _fixed(*matrix[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"RGB ", b"XYZ ", xyz | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma)))


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk_profile(lightness: dict[tuple[int, int, int, int], int]) -> bytes:
    """Each of the 16 colours of full and no ink by its lightness L, 0 to 255, without any hue."""
    ramp = bytes(range(256))
    corners = bytes(
        value
        for c in (0, 1)
        for m in (0, 1)
        for y in (0, 1)
        for k in (0, 1)
        for value in (lightness[c, m, y, k], 128, 128)
    )
    identity = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + corners + ramp * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table}, b"prtr")


def to_srgb(values: np.ndarray, matrix: np.ndarray, gamma: float = 2.2) -> np.ndarray:
    """(…, 3) 0..255 in the profile's colours → in sRGB, clipped; by the definitions alone."""
    linear = (values / 255.0) ** gamma @ matrix.T @ np.linalg.inv(SRGB).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
