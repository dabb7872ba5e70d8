"""The features of a painted face: the modelling of its skin, nose, beard, mouth, eyes, brows and glasses.

All lengths are pixels of CelebA's aligned 178 × 218 images, y counted from the top, x from between the eyes.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from vitpe.faces.canvas import (
    Array,
    Box,
    Portraits,
    box,
    bump,
    fade,
    hue,
    line,
    mix,
    palette,
    ramp,
    rgb,
    strand_table,
)

_EYE_X: Final = 19.5
_EYE_Y: Final = 111.0
_MOUTH_Y: Final = 150.0
_STRIPS: Final = 4
"""Divides the rows of the head's box."""
_SHADOW: Final = (-0.34, -0.42, -0.46)
"""Shadow on skin is warm: blue goes first."""
_LIGHT: Final = (0.30, 0.30, 0.27)
_BLUSH: Final = (0.03, -0.30, -0.20)
_STUBBLE: Final = (-0.52, -0.46, -0.37)
_IRIS: Final = np.array(
    [
        (0.16, 0.09, 0.05),
        (0.30, 0.17, 0.08),
        (0.36, 0.30, 0.14),
        (0.25, 0.36, 0.26),
        (0.28, 0.42, 0.56),
        (0.42, 0.50, 0.56),
    ],
    np.float32,
)


def skin_field(p: Portraits, x: Array, y: Array) -> Array:
    """(n, 3, h, w) skin colour: base, plus spots that are bumps in x times bumps in y, times a tint.

    x: (n, 1, w), y: (n, h, 1) face coordinates.
    """
    old = (1 - p.flag("Young")) * (0.84 + 0.36 * p.chance("plate_x"))
    male, made_up = p.flag("Male"), p.amount("Heavy_Makeup")
    cheekbones, bags = p.amount("High_Cheekbones"), p.amount("Bags_Under_Eyes")
    smile = p.amount("Smiling")
    nose, tip = nose_shape(p)
    stubble = p.amount("5_o_Clock_Shadow") * p.flag("5_o_Clock_Shadow")
    chin = p.traits["chin"]
    lid = hue(p.chance("shadow_hue"), 0.5, 0.70) - 1.0
    pair = np.abs(x)
    nose_x = x - 1.8 * p.yaw
    side = np.abs(nose_x)
    # (centre along x, width along x, centre along y, width along y, tint, amount)
    spots: list[tuple[Array, Array | float, Array | float, float, tuple[float, ...] | Array, Array | float]] = [
        (x, 24.0, 82.0, 11.0, _LIGHT, 0.30 + 0.5 * p.flag("Bald")),
        (pair - 25, 10.0, 127.0, 8.0, _LIGHT, 0.15 + 0.35 * smile),
        (pair - 28, 8.0, 122.5, 3.4, _LIGHT, 1.15 * cheekbones),
        (pair - 31, 7.5, 139.0, 6.5, _SHADOW, 0.06 + 0.85 * cheekbones),
        (pair - 27, 9.0, 130.5, 7.5, _BLUSH, 0.85 * p.amount("Rosy_Cheeks") + 0.15 * made_up + 0.10),
        (pair - 16, 9.0, 104.5, 5.0, _SHADOW, 0.18 + 0.20 * male),
        (pair - 7.5, 3.0, 108.0, 6.0, _SHADOW, 0.30),
        (pair - 20, 10.0, 103.8, 3.6, lid, 0.80 * made_up),
        (pair - 19.5, 7.5, 119.3, 2.0, _SHADOW, 0.08 + 0.95 * bags),
        (pair - 19.5, 7.0, 122.8, 1.3, _LIGHT, 0.4 * bags),
        (nose_x, 2.8, 113.0, 13.0, _LIGHT, 0.38),
        (nose_x, 0.36 * nose - 0.2, tip, 2.8, _LIGHT, 0.55 + 0.35 * p.amount("Pointy_Nose")),
        (side - 0.82 * nose, 2.6, tip - 6, 8.0, _SHADOW, 0.26),
        (nose_x, nose * 0.95, tip + 7.0, 2.2, _SHADOW, 0.50),
        (x, 2.0, 144.0, 2.2, _SHADOW, 0.18),
        (x, 8.5, 162.0, 2.6, _SHADOW, 0.40),
        (x, 7.0, 169.0, 4.5, _LIGHT, 0.28),
        (x, 60.0, chin + 2, 5.5, _SHADOW, 0.50),
        (x, 60.0, 64.0, 6.0, _SHADOW, 0.45 * (1 - p.flag("Bald"))),
        (x, 22.0, chin - 7, 9.0, _STUBBLE, 0.85 * stubble),
        (x, 15.0, 143.0, 3.0, _STUBBLE, 0.75 * stubble),
        (pair - 30, 8.0, 158.0, 12.0, _STUBBLE, 0.85 * stubble),
        (x, 20.0, 77.0, 0.9, _SHADOW, 0.42 * old),
        (x, 22.0, 83.0, 0.9, _SHADOW, 0.46 * old),
        (x, 17.0, 89.0, 0.9, _SHADOW, 0.36 * old),
        (pair - 36, 3.4, 107.0, 0.8, _SHADOW, 0.60 * old),
        (pair - 36, 3.6, 111.0, 0.8, _SHADOW, 0.60 * old),
        (pair - 35, 3.4, 115.0, 0.8, _SHADOW, 0.60 * old),
        (pair - 3.0, 0.8, 99.0, 4.0, _SHADOW, 0.40 * old),
    ]
    ones = np.ones((len(p), 1, 1), np.float32)
    columns = np.concatenate([ones + 0 * x] + [bump(along, width) for along, width, *_ in spots], axis=1)
    rows = np.concatenate([ones + 0 * y] + [bump(y - down, height) for _, _, down, height, *_ in spots], axis=2)
    tints = np.empty((len(p), 3, 1, 1 + len(spots)), np.float32)
    tints[..., 0] = 1.0
    for k, (*_, tint, amount) in enumerate(spots, start=1):
        tints[..., k] = np.asarray(tint, np.float32).reshape(-1, 3, 1) * (amount * ones)
    tints *= p.traits["skin"]
    # In strips: a product this small is faster on one core than shared among many.
    strips = (rows[:, None] * tints).reshape(len(p), 3, _STRIPS, -1, 1 + len(spots))
    field: Array = np.matmul(strips, columns[:, None, None])
    return field.reshape(len(p), 3, -1, columns.shape[2])


def nose_shape(p: Portraits) -> tuple[Array, Array]:
    """(n, 1, 1) half-width at the nostrils and height of the tip."""
    big, pointy = p.amount("Big_Nose"), p.amount("Pointy_Nose")
    return 8.2 + 4.2 * big - 2.6 * pointy + 0.5 * p.flag("Male"), 131.0 + 1.5 * big + 4.0 * pointy


def paint_nose(p: Portraits) -> None:
    """Nostrils and the wings beside them."""
    where = box(-17, 17, 122, 144)
    x, y = np.abs(p.x[:, :, where[1]] - 3.0 * p.yaw), p.y[:, where[0]]
    width, tip = nose_shape(p)
    shade = p.traits["skin"] * rgb(0.50, 0.38, 0.34)
    wing = line(x - width + ((y - tip - 2) / 5.5) ** 2 * 1.6, 0.35, 1.7)
    wing *= bump(y - tip - 2, 3.2)
    p.blend(where, 0.55 * wing, shade)
    hole = 1 - np.sqrt(((x - 0.52 * width) / (0.27 * width)) ** 2 + ((y - tip - 4.6 + 0.12 * (x - 4)) / 1.5) ** 2)
    p.blend(where, 0.8 * ramp(hole * 1.6), 0.6 * shade)
    base = line(y - tip - 5.8 + 2.8 * ((x - 0.5 * width) / width) ** 2, 0.25, 1.6) * ramp(width - x)
    p.blend(where, 0.5 * base, shade)


def _mouth_shape(p: Portraits) -> tuple[Array, Array, Array, Array]:
    """(n, 1, 1) half-width, lift of the corners, gap between the lips, thickness of the lower lip."""
    smile = p.amount("Smiling")
    width = 13.4 + 6.0 * smile + p.vary("mouth_width", 1.0)
    gap = 8.5 * p.flag("Mouth_Slightly_Open") * (0.65 + 0.5 * p.amount("Mouth_Slightly_Open"))
    return width, 6.4 * smile - 0.2, gap, 3.8 + 3.8 * p.amount("Big_Lips") - 0.5 * p.flag("Male")


def paint_mouth(p: Portraits) -> None:
    """Lips, what an open mouth shows between them, and the folds of a smile."""
    where = box(-26, 26, 128, 170)
    x, y = p.x[:, :, where[1]] - 1.5 * p.yaw, p.y[:, where[0]]
    width, lift, gap, lower = _mouth_shape(p)
    skin = p.traits["skin"]
    smile, old = p.amount("Smiling"), 1 - p.flag("Young")
    fold = line(np.abs(x) - 12.5 - 0.42 * (y - 136) - 0.012 * (y - 136) ** 2, 0.3, 3.0) * bump(y - 143, 6.5)
    p.blend(where, (0.08 + 0.60 * smile + 0.25 * old) * fold, 0.60 * skin * rgb(1, 0.88, 0.84))

    bow = np.clip(1 - (x / width) ** 2, 0, 1)
    middle = _MOUTH_Y + lift * (0.3 - (x / width) ** 2)
    upper_edge, lower_edge = middle - 0.35 * gap * bow, middle + 0.65 * gap * bow
    top = upper_edge - 0.72 * lower * bow**0.8 * (1 - 0.22 * bump(x, 2.6))
    bottom = lower_edge + lower * bow**0.75
    within = ramp(width - np.abs(x))
    lipstick = p.amount("Wearing_Lipstick") * p.flag("Wearing_Lipstick")
    painted = hue(0.93 + 0.12 * p.chance("lip_hue"), 0.80, 0.78 - 0.25 * p.chance("shadow_hue"))
    natural = skin * rgb(0.90, 0.70, 0.70)
    colour = mix(natural, painted, np.minimum(lipstick, 1.0) * 0.92)

    inside = ramp(y - upper_edge) * within
    inside *= ramp(lower_edge - y) * (gap > 0)
    teeth = inside * ramp(upper_edge + 0.62 * gap - y) * ramp(0.80 * width - np.abs(x))
    p.blend(where, inside, rgb(0.20, 0.06, 0.06))
    p.blend(where, teeth, (0.95 - 0.25 * fade(np.abs(x) - 4, 9.0))[:, None] * rgb(0.95, 0.93, 0.88))
    upper = ramp(y - top) * within
    upper *= ramp(upper_edge - y)
    p.blend(where, upper, 0.84 * colour)
    under = ramp(y - lower_edge) * within
    under *= ramp(bottom - y)
    gloss = 1 + (0.16 + 0.30 * lipstick) * bump(x, 4.5) * bump(y - lower_edge - 0.45 * lower, 1.2)
    p.blend(where, under, gloss[:, None] * colour)
    seam = line(y - middle, 0.35, 1.4) * ramp(width + 1 - np.abs(x)) * (1 - np.minimum(gap, 1))
    p.blend(where, 0.75 * seam, 0.40 * colour)


def paint_beard(p: Portraits) -> None:
    """Moustache, goatee, sideburns, the grain of a shaven beard, or a full one where none of them explains it."""
    names = ("Mustache", "Goatee", "Sideburns", "5_o_Clock_Shadow")
    some = p.only(np.any([p.has(name) for name in names], axis=0) | ~p.has("No_Beard"))
    if some is None:
        return
    where = box(-52, 52, 88, 184)
    rows = where[0]
    x, y = np.abs(some.x[:, :, where[1]] - 1.2 * some.yaw), some.y[:, rows]
    head = some.traits["head"][:, rows]
    within = ramp((head - x) * some.traits["head_slope"][:, rows] + 0.5)
    _, lift, gap, lower = _mouth_shape(some)
    chin = some.traits["chin"]

    upper_lip = 149 - 0.35 * gap - 0.8 * lower + lift * 0.3
    moustache = fade(np.minimum(upper_lip + 1.5 + 0.02 * x * x * (1 - 0.1 * lift) - y, y - 139.5 - 0.010 * x * x), 2.0)
    moustache *= fade(18.5 - x, 3.0)
    depth = chin + 2 - y
    round_chin = 1 - np.sqrt((x / (15 + 4 * some.chance("beard_shape"))) ** 2 + ((y - 172) / 14) ** 2)
    goatee = fade(np.minimum(np.minimum(round_chin * 14, y - 160.5 - 0.2 * gap), depth), 4.0)
    goatee = np.maximum(goatee, 0.8 * line(x - 17.5 + 0.012 * (y - 152) ** 2, 1.2, 3.0) * bump(y - 156, 7.0))
    sideburn = fade(np.minimum(x - head + 9, 142 + 8 * some.chance("beard_shape") - y), 4.0) * fade(y - 94, 4.0)
    jaw = 162 - 30 * np.clip((x - 11) / 30, 0, 1)
    full = fade(y - jaw, 7.0)

    has_full = (
        (some.flag("No_Beard") < 0.5) * (1 - 0.75 * np.maximum(some.flag("Goatee"), some.flag("Sideburns")))
    ).astype(np.float32)
    has_full *= 1 - 0.8 * some.flag("5_o_Clock_Shadow")
    coverage = np.maximum(moustache * some.flag("Mustache"), goatee * some.flag("Goatee"))
    coverage = np.maximum(coverage, 0.9 * sideburn * some.flag("Sideburns"))
    coverage = np.maximum(coverage, 0.8 * full * has_full)
    shaven = np.maximum(full, moustache) * some.flag("5_o_Clock_Shadow")
    coverage = np.maximum(coverage, 0.30 * shaven)
    grain = some.plate(where)
    coverage *= np.clip(0.84 + 0.15 * grain, 0, 1)
    coverage *= within
    some.blend(where, coverage, mix(some.traits["brow"], rgb(0.10, 0.08, 0.08), 0.35 * np.ones_like(gap)))


def _eyes(p: Portraits, top: float, bottom: float, reach: float) -> Iterator[tuple[Box, float, Array, Array]]:
    """The left and the right eye's box, side (-1, 1), distance outwards from its middle, and y."""
    for side in (-1.0, 1.0):
        where = box(side * _EYE_X - reach, side * _EYE_X + reach, top, bottom)
        yield where, side, side * p.x[:, :, where[1]] - _EYE_X, p.y[:, where[0]]


def paint_eyes(p: Portraits) -> None:
    """Both eyes alike but for their gaze: white, iris, pupil, glint, lids, lashes and the bags below."""
    male, made_up, attractive = p.flag("Male"), p.amount("Heavy_Makeup"), p.amount("Attractive")
    narrow, old = p.amount("Narrow_Eyes"), 1 - p.flag("Young")
    skin = p.traits["skin"]
    half = 9.3 + 1.5 * attractive - 0.2 * male
    open_up = 4.6 + 1.5 * attractive - 3.0 * narrow - 0.5 * old
    open_down = 3.3 - 1.5 * narrow - 1.4 * p.amount("Smiling")
    tilt = p.vary("eye_tilt", 0.06) + 0.06
    iris = palette(_IRIS, p.chance("iris") ** 1.4) * (0.75 + 0.5 * p.chance("iris_depth")[:, None])
    lash = mix(rgb(0.20, 0.12, 0.09), rgb(0.03, 0.02, 0.03), np.minimum(made_up + 0.3, 1))
    for where, side, out, y in _eyes(p, 96, 126, 17):
        bend = 1 - (out / half) ** 2
        line_y = _EYE_Y - tilt * out
        upper = line_y - open_up * bend
        lower = line_y + open_down * bend
        over, under = y - upper, lower - y
        white = ramp(np.minimum(over, under))
        white *= ramp(half - np.abs(out))
        shaded = 0.62 + 0.38 * fade(over, 3.5)
        p.blend(
            where, white, shaded[:, None] * mix(rgb(0.86, 0.82, 0.80), rgb(0.97, 0.96, 0.96), np.minimum(attractive, 1))
        )
        across = out - side * (p.vary("gaze", 1.6) + 0.5 * p.yaw)
        radius = np.sqrt(across * across + (y - 110.3) ** 2)
        disc = white * np.clip(5.4 - radius, 0, 1)
        depth = (0.60 + 0.55 * fade(y - 107.5, 6.0)) * (1 - 0.55 * bump(radius - 4.9, 0.9))
        p.blend(where, disc, depth[:, None] * iris)
        p.blend(where, white * np.clip(2.6 - radius, 0, 1), rgb(0.02, 0.02, 0.02))
        glint = np.sqrt((across + side * 1.5) ** 2 + (y - 108.6) ** 2)
        p.blend(where, white * np.clip(1.7 - glint, 0, 1), rgb(1.0, 1.0, 1.0))

        near = fade(half + 1.5 - np.abs(out), 2.5)
        crease = line(over + 3.4 + 0.4 * made_up, 0.3, 1.8) * near
        p.blend(where, (0.50 - 0.1 * narrow) * crease, 0.55 * skin * rgb(1, 0.86, 0.82))
        wing = np.where(
            out > half - 1.5,
            -(out - half + 1.5) * 0.55 * made_up - open_up * (1 - ((half - 1.5) / half) ** 2),
            -open_up * bend,
        )
        thick = (0.75 + 0.35 * (1 - male) + 0.75 * made_up) * (1 + 0.02 * out)
        lashes = (
            line(y - line_y - wing + 0.3, thick)
            * ramp(half + 0.5 + 3.5 * made_up * (1 - male) - out)
            * ramp(half + out + 0.5)
        )
        p.blend(where, np.minimum(0.80 + 0.3 * made_up, 1) * lashes, lash)
        rim = line(under, 0.3, 1.3) * ramp(half - np.abs(out))
        p.blend(where, (0.30 + 0.5 * made_up) * rim, 0.6 * lash + 0.2 * skin)
        bag = line(lower + 5.8 - y + 0.5 * bend, 0.35, 1.8) * fade(half + 1 - np.abs(out), 4.0)
        p.blend(where, 0.62 * p.amount("Bags_Under_Eyes") * bag, 0.55 * skin * rgb(1, 0.84, 0.86))


def paint_brows(p: Portraits) -> None:
    """Eyebrows: their arch, their thickness, their hairs."""
    arched, bushy, male = p.amount("Arched_Eyebrows"), p.amount("Bushy_Eyebrows"), p.flag("Male")
    base = 98.2 + 0.8 * male + p.vary("brow_height", 0.9) - 0.8 * arched
    arch = 1.4 + 5.6 * arched
    full = 1.35 + 2.2 * bushy + 0.35 * male
    table = strand_table()
    for where, _, out, y in _eyes(p, 84, 106, 18):
        along = np.clip((out + 12.5) / 27, -0.2, 1.2)
        rise = 1 - np.where(along < 0.62, (along - 0.62) / 0.62, (along - 0.62) / 0.48) ** 2
        thick = full * np.clip(np.minimum(0.55 + 1.6 * along, 2.1 * (1.06 - along)), 0, 1)
        coverage = line(y - base + arch * rise, thick, 1.6)
        coverage *= fade(out + 13.5, 3.0) * fade(14.8 - out, 4.0)
        hairs = table[(out * 16 + y * 12 + 8192 * p.chance("hair_offset")).astype(np.int32) & 8191]
        coverage *= np.minimum(0.70 + 0.20 * bushy + 0.16 * hairs, 1)
        p.blend(where, coverage, p.traits["brow"])


def paint_eyeglasses(p: Portraits) -> None:
    """Frames, round to square, clear or dark, with a reflection on each lens."""
    some = p.only(p.has("Eyeglasses"))
    if some is None:
        return
    square = 2.4 + 2.6 * some.chance("frame_shape")
    tall = 10.0 + 2.5 * some.chance("frame_hue")
    frame = hue(some.chance("frame_hue"), 0.5 * some.chance("frame_shape"), 0.05 + 0.20 * some.chance("frame_hue"))
    dark = (some.chance("lens") > 0.80).astype(np.float32)
    thick = 0.9 + 0.9 * some.chance("frame_shape")
    for where, side, out, y in _eyes(some, 94, 130, 21):
        distance = (np.abs(out) / 16.2) ** square + (np.abs(y - 112.5) / tall) ** square
        distance = (1 - distance ** (1 / square)) * tall
        lens = ramp(distance.copy())
        some.blend(where, lens * (0.07 + 0.80 * dark), rgb(0.05, 0.05, 0.06))
        some.blend(where, 0.20 * lens * line(side * out + 0.9 * (y - 112) + 5, 1.6, 2.0), rgb(1, 1, 1))
        some.blend(where, line(distance, thick), frame)
    where = box(-50, 50, 100, 116)
    x, y = np.abs(some.x[:, :, where[1]]), some.y[:, where[0]]
    bridge = line(y - 108 - 0.04 * x * x, thick) * ramp(4.2 - x)
    temple = line(y - 109 + 0.05 * (x - 36), thick) * ramp(x - 35.5) * ramp(some.traits["face_width"] + 1 - x)
    some.blend(where, np.maximum(bridge, temple), frame)
