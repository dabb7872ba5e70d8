"""Portraits painted from visible attributes: the order of the layers, and the large ones; see face_features.py.

All lengths are pixels of CelebA's aligned 178 × 218 images, y counted from the top, x from between the eyes.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.faces import features as features
from vitpe.faces.canvas import (
    HEIGHT,
    WIDTH,
    Array,
    Portraits,
    box,
    bump,
    edge_slope,
    fade,
    grain_plate,
    hue,
    line,
    mix,
    ramp,
    rgb,
    strand_table,
)
from vitpe.faces.shape import NOTHING, SKULL, settle_shape

_BATCH: Final = 16
"""Portraits painted at once: enough to hide the cost of a call, few enough for the processor's cache."""
_SHOULDER_Y: Final = 181.0
"""Where the neck starts to widen into the shoulders, as the power below of the rows beneath."""
_TRAPEZIUS: Final = 2.2


def paint_faces(seen: NDArray[np.uint8], nuisance: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(n, 3, 218, 178) RGB portraits showing the attributes `seen` (n, 40) under `nuisance` (n, NUM_NUISANCES).

    Portrait i depends on row i alone.
    """
    images = np.empty((len(seen), 3, HEIGHT, WIDTH), np.uint8)
    for start in range(0, len(seen), _BATCH):
        rows = slice(start, start + _BATCH)
        portraits = Portraits(seen[rows], nuisance[rows])
        settle_shape(portraits)
        for layer in _LAYERS:
            layer(portraits)
        develop(portraits, images[rows])
    return images


def paint_backdrop(p: Portraits) -> None:
    """An out-of-focus background: a gradient and two soft clouds."""
    across = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    down = np.linspace(-1, 1, HEIGHT, dtype=np.float32)
    a, b, c, d = (2 * np.pi * p.chance(f"backdrop_{letter}")[:, :, 0] for letter in "abcd")
    columns = np.stack(
        [np.ones_like(across + a), across + 0 * a, np.cos(2.2 * across + a), np.cos(3.7 * across + b)], 1
    )
    rows = np.stack([np.ones_like(down + c), np.sin(1.2 * down + c), np.cos(2.1 * down + c), np.cos(3.1 * down + d)], 2)
    value = 0.10 + 0.82 * p.chance("backdrop_value")
    base = hue(p.chance("backdrop_hue"), 0.45 * p.chance("backdrop_contrast"), value)
    other = hue(p.chance("backdrop_a"), 0.4, 0.8) - 0.45
    weights = [base, 0.30 * base, 0.18 * value[:, None] * other, 0.14 * value[:, None] * other]
    coefficients = np.concatenate([weight.reshape(len(p), 3, 1, 1) for weight in weights], axis=3)
    np.matmul(rows[:, None] * coefficients, columns[:, None].astype(np.float32), out=p.pixels)


def paint_back_hair(p: Portraits) -> None:
    """The hair behind the neck, in its own shadow."""
    some = p.only((p.traits["long"][:, 0, 0] > 0) & ~p.has("Bald"))
    if some is None:
        return
    where = box(-66, 66, 60, 217)
    rows = where[0]
    traits = some.traits
    x = np.abs(some.x[:, :, where[1]] - 2 * some.yaw) + traits["hair_wave"][:, rows]
    coverage = ramp((traits["hair_outline"][:, rows] - x) * traits["hair_slope"][:, rows])
    some.blend(where, coverage, 0.55 * traits["hair"])


def paint_neck(p: Portraits) -> None:
    """Neck and shoulders, with the shadow of the chin on them."""
    where = box(-89, 89, 150, 217)
    x, y = np.abs(p.x[:, :, where[1]]), p.y[:, where[0]]
    width = _neck_width(p)
    below = np.clip((y - _SHOULDER_Y) / 28, 0, 1.4)
    outline = width + 44 * below**_TRAPEZIUS
    coverage = ramp((outline - x) * edge_slope(outline))
    chin = p.traits["chin"]
    double = p.amount("Double_Chin")
    shadow = (
        0.42 * bump(y - chin - 1, 9.0)
        + 0.30 * double * bump(y - chin - 15, 3.0)
        - 0.32 * double * bump(y - chin - 8, 3.5)
    )
    light = (1 - shadow) * 0.93 * (1 - 0.30 * np.minimum((x / outline) ** 4, 1))
    light += 0.10 * bump(x - 9, 3.0) * bump(y - 206, 6.0)
    warmth = p.traits["skin"] * rgb(1.0, 0.94, 0.91)
    p.blend(where, coverage, light[:, None] * warmth)


def _neck_width(p: Portraits) -> Array:
    return 23 + 7.5 * p.flag("Male") + 3.5 * p.amount("Chubby") - p.amount("Oval_Face")


def paint_double_chin(p: Portraits) -> None:
    """A second, softer chin below the first."""
    some = p.only(p.has("Double_Chin"))
    if some is None:
        return
    where = box(-44, 44, 160, 200)
    x, y = some.x[:, :, where[1]], some.y[:, where[0]]
    chin = some.traits["chin"]
    depth = (1 - np.sqrt((x / (0.70 * some.traits["face_width"])) ** 2 + ((y - chin + 13) / 23) ** 2)) * 22
    coverage = ramp(depth * 0.7)
    light = 0.98 - 0.36 * (1 - fade(depth, 6.0))
    some.blend(where, coverage, light[:, None] * some.traits["skin"] * rgb(1.0, 0.95, 0.93))


def paint_clothes(p: Portraits) -> None:
    """A top with a round neckline; with Wearing_Necktie a suit, a shirt and a tie."""
    where = box(-89, 89, 180, 217)
    x, y = np.abs(p.x[:, :, where[1]]), p.y[:, where[0]]
    male, tie = p.flag("Male"), p.flag("Wearing_Necktie")
    width, cut = _neck_width(p), p.chance("cloth_cut")
    opening = width + np.where(male > 0, 1.0, 2 + 30 * cut)
    depth = (1 - tie) * np.where(male > 0, 3 + 6 * cut, 4 + 5 * p.chance("cloth_value"))
    shoulder = _SHOULDER_Y - 2 + 28 * (np.maximum(np.maximum(x, opening) - width, 0) / 44) ** (1 / _TRAPEZIUS)
    coverage = ramp((y - shoulder - depth * np.clip(1 - (x / opening) ** 2, 0, 1)) * 0.8)
    value = 0.10 + 0.75 * p.chance("cloth_value") ** 1.3
    cloth = hue(p.chance("cloth_hue"), 0.65 * p.chance("cloth_cut"), np.where(tie > 0, 0.10 + 0.16 * value, value))
    folds = 1 - 0.16 * bump(x - 38 - 0.5 * (y - 200), 5.0) + 0.10 * bump(x - 56 - 0.3 * (y - 200), 9.0)
    p.blend(where, coverage, folds[:, None] * cloth)
    some = p.only(p.has("Wearing_Necktie"))
    if some is not None:
        _paint_necktie(some)


def _paint_necktie(p: Portraits) -> None:
    where = box(-40, 40, 178, 217)
    x, y = np.abs(p.x[:, :, where[1]]), p.y[:, where[0]]
    shirt = ramp(np.minimum(25 - 0.55 * (y - 186) - x, y - 187))
    p.blend(where, shirt, (0.92 - 0.12 * bump(x - 9 + 0.3 * (y - 200), 2.0))[:, None] * rgb(0.95, 0.96, 1.0))
    lapel = line(x - 25 + 0.55 * (y - 186), 0.9)
    p.blend(where, 0.5 * lapel * ramp(y - 188), rgb(0.03, 0.03, 0.04))
    wide = np.where(y < 203, 6.5 - 0.22 * (y - 194), 3.8 + 0.24 * (y - 203))
    tie = ramp(np.minimum(wide - x, y - 194))
    stripes = 1 + 0.25 * np.sin(0.9 * (p.x[:, :, where[1]] + y))
    p.blend(where, tie, stripes[:, None] * hue(p.chance("tie_hue"), 0.75, 0.55))


def paint_ears(p: Portraits) -> None:
    """Ears, seen where no long hair covers them."""
    where = box(-54, 54, 94, 134)
    x, y = np.abs(p.x[:, :, where[1]] - p.yaw), p.y[:, where[0]]
    centre = p.traits["face_width"] + 0.5
    depth = (1 - np.sqrt(((x - centre) / 5.6) ** 2 + ((y - 114 - 0.1 * (x - centre)) / 12.5) ** 2)) * 6
    light = 0.82 - 0.26 * bump(depth - 2.6, 1.3)
    p.blend(where, ramp(depth), light[:, None] * p.traits["skin"] * rgb(1.03, 0.94, 0.92))


def paint_head(p: Portraits) -> None:
    """The skin of the face and its soft modelling: one matrix product of bumps along x with bumps along y."""
    where = box(-52, 52, 46, 184)
    turned = p.x[:, :, where[1]] - 1.2 * p.yaw
    x, y = np.abs(turned), p.y[:, where[0]]
    head = p.traits["head"][:, where[0]]
    coverage = ramp((head - x) * p.traits["head_slope"][:, where[0]])
    field = features.skin_field(p, turned, y)
    around = turned / np.maximum(head, 12)
    rim = around * around
    rim *= rim
    rim *= -0.32
    around *= p.vary("light_side", 0.13)
    rim += around
    rim += 1
    rough, plate = 1 - np.minimum(p.amount("Attractive"), 1), p.plate(where)
    rim += (0.008 + 0.016 * rough) * plate
    plate -= 1.9
    rim -= 0.22 * rough * np.maximum(plate, 0, out=plate)
    field *= rim[:, None]
    p.blend(where, coverage, field)


def paint_hair(p: Portraits) -> None:
    """The hair in front: everything within its outline but outside the opening that shows the face."""
    long = p.traits["long"][:, 0, 0] > 0
    for some, bottom in ((p.only(long & ~p.has("Bald")), 217), (p.only(~long & ~p.has("Bald")), 126)):
        if some is not None:
            _paint_hair_to(some, bottom)


def _paint_hair_to(some: Portraits, bottom: int) -> None:
    where = box(-66, 66, 30, bottom)
    rows = where[0]
    traits = some.traits
    signed = some.x[:, :, where[1]] - 2 * some.yaw
    y = some.y[:, rows]
    x = np.abs(signed) + traits["hair_wave"][:, rows]
    outline = traits["hair_outline"][:, rows]
    coverage = ramp((outline - x) * traits["hair_slope"][:, rows])
    coverage *= 1 - _hair_opening(some, signed, x, where[0])
    long = traits["long"]
    length = np.where(long > 0, 190 + 60 * some.chance("hair_length"), 124.0)
    ends = strand_table()[(signed * 9 + 8192 * some.chance("hair_phase")).astype(np.int32) & 8191]
    coverage *= fade(length + 4 + 2 * ends - y, 8.0)

    shine = _strands(some, signed, x, y, outline)
    some.blend(where, coverage, shine[:, None] * traits["hair"])


def _hair_opening(p: Portraits, signed: Array, x: Array, rows: slice) -> Array:
    """(n, h, w) coverage of what the hair leaves free: the face, and below it the throat."""
    long, width, y = p.traits["long"], p.traits["face_width"], p.y[:, rows]
    bangs, receding = p.flag("Bangs"), p.amount("Receding_Hairline")
    across = np.abs(signed)
    part = p.vary("hair_part", 16.0)
    from_part = np.abs(signed - part) / 44
    swept = 67 - 2 * long + (14 + 20 * long) * from_part ** (2.4 + 1.1 * (1 - long))
    swept = swept - receding * (5 + 17 * bump(across - 23, 9.0))
    skull = 106 - SKULL * np.clip(1 - (across / width) ** 2, 0, 1) ** 0.42
    swept = np.maximum(swept, skull + 4)
    fringe = strand_table()[(signed * 13 + 8192 * p.chance("hair_offset")).astype(np.int32) & 8191]
    straight_across = 91.5 + 0.004 * (signed - part) ** 2 + 1.8 * fringe
    hairline = np.where(bangs > 0, np.maximum(straight_across, swept), swept + 0.5 * fringe)
    side = np.where(
        long > 0,
        width - 4.5 - 3 * np.clip((y - 120) / 40, 0, 1) + 6 * np.clip((y - 170) / 40, 0, 1),
        width - 2.6 + 9 * np.clip((y - 97) / 10, 0, 1),
    )
    side = np.where(y < 100, np.minimum(side, p.traits["head"][:, rows] - 1.5), side)
    opening = ramp(side - x)
    opening *= ramp((y - hairline) * 0.33)
    return opening


def _strands(p: Portraits, signed: Array, x: Array, y: Array, outline: Array) -> Array:
    """(n, h, w) brightness of the hair: strands that follow its outline, a sheen, and shadow at its edges."""
    part = p.vary("hair_part", 16.0) * np.clip((92 - y) / 45, 0, 1)
    across = x / np.maximum(outline, 14)
    index = across * 700 + 8192 * p.chance("hair_offset")
    index += 3000 * (signed < part)
    light: Array = strand_table()[index.astype(np.int32) & 8191]
    straight, wavy = p.flag("Straight_Hair"), p.flag("Wavy_Hair")
    light *= 0.13 + 0.07 * straight
    across *= across
    across *= across
    light -= 0.30 * np.minimum(across, 1.5)
    sheen = (0.22 + 0.30 * straight) * bump(y - 62, 9.0) + (0.10 + 0.08 * wavy) * bump(y - 150, 18.0)
    light += sheen * bump(signed - p.vary("light_side", 14.0), 24.0 + 12 * p.traits["long"])
    if wavy.any():
        light += 0.10 * wavy * np.sin(y * (2 * np.pi / 27) + 2 * np.pi * p.chance("hair_phase") + 0.11 * x)
    light += 1.0
    light -= 0.25 * bump(signed - part, 1.6) * bump(y - 46, 16.0) * (1 - p.flag("Bangs"))
    return light


def paint_hat(p: Portraits) -> None:
    """A knitted cap, or a hat with a brim."""
    some = p.only(p.has("Wearing_Hat"))
    if some is None:
        return
    where = box(-80, 80, 18, 96)
    signed, y = some.x[:, :, where[1]] - 2 * some.yaw, some.y[:, where[0]]
    x = np.abs(signed)
    brimmed = (some.chance("hat_shape") > 0.45).astype(np.float32)
    width = some.traits["face_width"] + 5 + 4 * some.traits["long"] + 2 * brimmed
    tall = np.clip((80 - y) / (56 - 8 * brimmed), 0, 1)
    crown = width * (1 - tall ** (2.4 + 1.6 * brimmed)) ** 0.5
    crown = np.where(crown > 0, crown, NOTHING)
    bottom = 80 - 0.0012 * x * x
    coverage = ramp((crown - x) * edge_slope(crown))
    coverage *= ramp(bottom - y)
    colour = hue(some.chance("hat_hue"), 0.6 * some.chance("hat_value"), 0.10 + 0.75 * some.chance("hat_value"))
    light = 1 - 0.38 * (x / width) ** 4 + 0.12 * bump(signed + 14, 12.0) * bump(y - 48, 14.0)
    band = line(y - bottom + 11 + 2 * brimmed, 0.5 + 3.5 * brimmed)
    light += (1 - brimmed) * 0.09 * np.sin(signed * 1.5) - 0.5 * band
    some.blend(where, coverage, light[:, None] * colour)
    brim = ramp((1 - np.sqrt((x / (width + 17)) ** 2 + ((y - 77 - 0.0016 * x * x) / 6.5) ** 2)) * 6) * brimmed
    some.blend(where, brim, (0.92 - 0.25 * fade(y - 77, 6.0))[:, None] * colour)


def paint_jewellery(p: Portraits) -> None:
    """Earrings below the ears, and a chain round the neck."""
    some = p.only(p.has("Wearing_Earrings"))
    if some is not None:
        where = box(-58, 58, 128, 156)
        x, y = np.abs(some.x[:, :, where[1]] - some.yaw), some.y[:, where[0]]
        x = x - some.traits["face_width"] - 1.5
        size = 3.2 + 1.8 * some.chance("metal")
        drop = np.maximum(
            (1 - np.sqrt((x / size) ** 2 + ((y - 143) / (1.7 * size)) ** 2)) * size,
            1.9 - np.sqrt(x**2 + (y - 133) ** 2),
        )
        glint = 0.75 + 0.9 * bump(x + 0.8, 0.9) * bump(y - 141, 1.6) + 0.25 * np.sin(y * 1.1)
        some.blend(where, ramp(drop), glint[:, None] * mix(rgb(0.93, 0.75, 0.35), rgb(0.85, 0.88, 0.92), _metal(some)))
    some = p.only(p.has("Wearing_Necklace"))
    if some is not None:
        where = box(-34, 34, 180, 217)
        x, y = some.x[:, :, where[1]], some.y[:, where[0]]
        chain = y - (205 - (x / 27) ** 2 * 19)
        beads = 0.75 + 0.35 * np.sin(x * 1.9)
        metal = mix(rgb(0.96, 0.80, 0.40), rgb(0.92, 0.93, 0.96), _metal(some))
        within = ramp(np.minimum(_neck_width(some), 27) - np.abs(x))
        some.blend(where, 0.35 * line(chain - 1.8, 1.3, 1.5) * within, rgb(0.12, 0.07, 0.05))
        some.blend(where, line(chain, 1.35) * within, beads[:, None] * metal)
        pendant = ramp(3.4 - np.sqrt(x * x + (y - 208) ** 2))
        some.blend(where, pendant, (0.85 + 0.5 * bump(x + 1, 1.2) * bump(y - 207, 1.2))[:, None] * metal)


def _metal(p: Portraits) -> Array:
    return (p.chance("metal") > 0.5).astype(np.float32)


def _blurred(picture: Array) -> Array:
    """(3, h, w) out of focus: twice a box of 5 pixels each way, nearly a Gaussian of 2 (edges repeat)."""
    for _ in range(2):
        for axis in (1, 2):
            padding = [(0, 0), (0, 0), (0, 0)]
            padding[axis] = (3, 2)
            total = np.cumsum(np.pad(picture, padding, mode="edge"), axis=axis)
            size = picture.shape[axis]
            ends, starts = np.arange(5, 5 + size), np.arange(size)
            picture = (total.take(ends, axis) - total.take(starts, axis)) / 5
    return picture


def develop(p: Portraits, images: NDArray[np.uint8]) -> None:
    """Light from one side, its colour, a vignette, and the camera's blur and grain; fills images (n, 3, H, W)."""
    across = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
    down = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[None]
    side, top = p.vary("light_side", 0.22)[:, :, 0], p.vary("light_top", 0.10)[:, :, 0]
    columns = np.stack([1 + side * across, 1 - 0.10 * across**2 + 0 * side], axis=1)
    rows = np.stack([0.5 - top * down, 0.5 - 0.06 * down**2 + 0 * top], axis=2)
    colour = 255 * (1.08 + p.vary("gain", 0.12)[:, None]) * (1 + p.vary("warmth", 0.05)[:, None] * rgb(1, 0, -1))
    rows = rows[:, None] * colour
    grain = grain_plate(1.0)
    tops = (p.chance("noise_y").ravel() * (grain.shape[0] - HEIGHT)).astype(int)
    lefts = (p.chance("noise_x").ravel() * (grain.shape[1] - WIDTH)).astype(int)
    strength = 0.5 + 3.0 * p.chance("noise")[:, 0]
    blurry = p.has("Blurry")
    for i, picture in enumerate(p.pixels):  # one at a time: it stays in the processor's cache
        if blurry[i]:
            picture[:] = _blurred(picture)
        picture *= rows[i] @ columns[i]
        picture += strength[i] * grain[tops[i] : tops[i] + HEIGHT, lefts[i] : lefts[i] + WIDTH]
        np.clip(picture, 0, 255, out=picture)
        images[i] = picture


_LAYERS: Final = (
    paint_backdrop,
    paint_back_hair,
    paint_neck,
    paint_clothes,
    paint_double_chin,
    paint_ears,
    paint_head,
    features.paint_nose,
    features.paint_beard,
    features.paint_mouth,
    features.paint_eyes,
    features.paint_brows,
    paint_hair,
    features.paint_eyeglasses,
    paint_hat,
    paint_jewellery,
)
