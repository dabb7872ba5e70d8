"""What a portrait's layers agree on: the outlines of head and hair, and the colours of skin and hair.

All lengths are pixels of CelebA's aligned 178 × 218 images, y counted from the top, x from between the eyes.
"""

from typing import Final

import numpy as np

from vitpe.faces.canvas import Array, Portraits, edge_slope, mix, palette, rgb

_SKIN: Final = np.array(
    [
        (0.92, 0.75, 0.65),
        (0.88, 0.68, 0.56),
        (0.83, 0.62, 0.49),
        (0.70, 0.49, 0.36),
        (0.52, 0.34, 0.25),
        (0.38, 0.24, 0.18),
    ],
    np.float32,
)
_PALE_SKIN: Final = rgb(0.97, 0.89, 0.85)
_UNNAMED_HAIR: Final = np.array(
    [(0.16, 0.12, 0.10), (0.22, 0.13, 0.10), (0.47, 0.21, 0.11), (0.56, 0.44, 0.30)], np.float32
)
"""Hair that CelebA calls neither black, brown, blond nor gray: in between, or red."""
SKULL: Final = 62.0
"""From the head's widest row up to its top."""
NOTHING: Final = np.float32(-4)
"""Half-width of an outline beyond its ends: negative, so that no pixel is covered."""
_NAMED_HAIR: Final = {
    "Black_Hair": rgb(0.07, 0.065, 0.07),
    "Brown_Hair": rgb(0.36, 0.225, 0.14),
    "Blond_Hair": rgb(0.86, 0.70, 0.44),
    "Gray_Hair": rgb(0.70, 0.70, 0.71),
}


def settle_shape(p: Portraits) -> None:
    """Fill p.traits; see the two functions below for what each holds."""
    _settle_colours(p)
    _settle_outlines(p)


def _settle_colours(p: Portraits) -> None:
    """skin, hair, brow: (n, 3, 1, 1) colours."""
    depth = p.chance("skin") ** 1.8 * (1 - 0.6 * p.flag("Blond_Hair"))
    skin = palette(_SKIN, depth)
    skin = skin * (1 + p.vary("skin_warmth", 0.05)[:, None] * rgb(1.0, 0.0, -1.2))
    skin = skin * (
        1 + 0.05 * p.flag("Attractive")[:, None] + 0.06 * (p.flag("Young")[:, None] - 1) * rgb(0.6, 1.0, 1.2)
    )
    p.traits["skin"] = mix(skin, _PALE_SKIN, 0.85 * p.flag("Pale_Skin"))
    shade = p.vary("hair_shade", 0.14)
    hair = palette(_UNNAMED_HAIR, p.chance("hair_shade") * (1 - 0.8 * depth))
    named: Array = np.zeros_like(hair)
    count: Array = np.zeros((len(p), 1, 1, 1), np.float32)
    for name, colour in _NAMED_HAIR.items():
        named = named + p.flag(name)[:, None] * colour
        count = count + p.flag(name)[:, None]
    hair = np.where(count > 0, named / np.maximum(count, 1) * (1 + shade[:, None]), hair)
    p.traits["hair"] = hair
    p.traits["brow"] = np.where(p.flag("Blond_Hair")[:, None] > 0, rgb(0.48, 0.34, 0.20), 0.62 * hair)


def _settle_outlines(p: Portraits) -> None:
    """Half-widths by row, (n, HEIGHT, 1): head, hair. By portrait, (n, 1, 1): face_width, chin, jaw_slope, long.

    hair_wave: (n, HEIGHT, 1) how far waves push the hair outwards.
    """
    male, chubby = p.flag("Male"), p.amount("Chubby")
    oval = p.amount("Oval_Face")
    width = 43.6 + 1.2 * male + 6.0 * chubby - 4.2 * oval + p.vary("face_width", 1.2)
    chin = 177.0 + 2.0 * male + 5.5 * oval + p.vary("chin", 2.0)
    below = np.clip((p.y - 106) / (chin - 106), 0, 1)
    above = np.clip((106 - p.y) / SKULL, 0, 1)
    square = 2.55 + 0.55 * male + 0.7 * chubby - 0.4 * oval
    jaw = (1 - below**square) ** (0.64 - 0.08 * male)
    head = width * np.where(p.y > 106, jaw, (1 - above**2.4) ** 0.5)
    head = np.where(head > 0, head, NOTHING)
    p.traits |= {"face_width": width, "chin": chin, "head": head, "head_slope": edge_slope(head)}

    # Women's hair is long unless chance cuts it, men's short unless chance lets it grow.
    length = p.chance("hair_length")
    is_long = np.where(male > 0, length > 0.94, length > 0.10).astype(np.float32)
    volume = p.vary("hair_volume", 2.0)
    curls = p.flag("Wavy_Hair") - p.flag("Straight_Hair")
    crown = width + 2.5 + (6.5 + 3.0 * curls) * is_long + volume * (0.5 + 0.5 * is_long)
    top = 38.0 - 4.0 * is_long - 1.5 * volume
    widest = 84 + 20 * is_long
    above = np.clip((widest - p.y) / (widest - top), 0, 1)
    falling = np.clip((p.y - 104) / 100, 0, 1.2)
    long_fall = crown + (5.0 + 3 * volume) * falling
    short_fall = crown - 30 * np.clip((p.y - 84) / 40, 0, 1) ** 2
    hair = np.where(p.y < widest, crown * (1 - above**2.3) ** 0.5, np.where(is_long > 0, long_fall, short_fall))
    hair = np.where(hair > 0, hair, NOTHING)
    p.traits |= {"hair_outline": hair, "hair_slope": edge_slope(hair), "long": is_long, "hair_top": top}

    wavy = p.flag("Wavy_Hair") * (1 - 0.7 * p.flag("Straight_Hair"))
    swing = (2.4 * wavy + 0.6 * (1 - wavy) * (1 - p.flag("Straight_Hair"))) * (0.5 + 0.5 * is_long)
    fall = np.clip((p.y - 50) / 90, 0.25, 1)
    phase = 2 * np.pi * p.chance("hair_phase")
    turns = p.y * (2 * np.pi / (24 + 14 * p.chance("hair_offset") * is_long))
    p.traits["hair_wave"] = swing * fall * (np.sin(turns + phase) + 0.30 * np.sin(2.3 * turns + 2 * phase))
