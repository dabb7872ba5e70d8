"""The learned frequencies of rotary position embeddings (arXiv:2403.13298, "mixed"): numbers, and a picture.

freqs (2, L, h, K): of pair k of the channels of a head of a block by how many radians it turns for a step to the right
(freqs[0]), and for a step down (freqs[1]). A step is one patch on the grid that frequencies are made for, 13 × 11.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from vitpe.viz.colours import ACCENT, FAINT, MUTED, Pixels
from vitpe.viz.history import Checkpoint
from vitpe.viz.sheet import Sheet, print_scale, shorten
from vitpe.viz.similarity import Floats

MARGIN: Final = 28
WIDTH: Final = 1120
TOP: Final = 150
LABELS: Final = 66
GAP: Final = 12
MAX_PANEL: Final = 300
RINGS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0)
"""Radians a step."""


def rotary_record(freqs: Floats, first: Floats) -> dict[str, Any]:
    """JSON-able, of each head of each block: "frequency", the root mean square length of its K frequencies in radians a
    step; "share_across", how much of their squares is across (1: it tells columns alone; 0: rows alone; None where all
    are zero); "changed", the root mean square length of what has changed since `first`.
    """
    squares = np.square(freqs).sum(axis=-1)
    total = squares.sum(axis=0)
    across = np.divide(squares[0], total, out=np.full_like(total, np.nan), where=total > 0)
    moved = np.square(freqs - first).sum(axis=(0, -1))
    pairs = freqs.shape[-1]
    return {
        "frequency": _rounded(np.sqrt(total / pairs)),
        "share_across": _rounded(across),
        "changed": _rounded(np.sqrt(moved / pairs)),
    }


def rotary_picture(checkpoint: Checkpoint, history: Sequence[Floats], scale: int | None = None) -> Pixels:
    """history: the frequencies at each checkpoint, those of `checkpoint` last. A panel a head, a row a block.

    RGB pixels; `scale` 1 is for screens, None for print.
    """
    trail = np.stack(history)  # (T, 2, L, h, K)
    _, _, depth, num_heads, num_pairs = trail.shape
    panel = min(MAX_PANEL, (WIDTH - 2 * MARGIN - LABELS - (num_heads - 1) * GAP) // num_heads)
    sheet = Sheet(WIDTH, TOP + depth * (panel + GAP) + 46, scale or print_scale(WIDTH))
    sheet.text(MARGIN, 42, "What rotary embeddings have learned", 24, weight="bold")
    facts = [checkpoint.subject] if checkpoint.subject else []
    facts += [checkpoint.label, f"{num_pairs} pairs of channels in each head"]
    sheet.text(MARGIN, 68, shorten(" · ".join(facts), 14.5, WIDTH - 2 * MARGIN), 14.5, MUTED)
    text = (
        "Each dot is a pair of channels: how far it turns from a patch to the next one on the right (rightwards in the"
        " panel) and to the next one below (downwards). Far from the middle it tells neighbours apart, near it only"
        " what is far apart. Rings: radians a patch."
    )
    sheet.paragraph(MARGIN, 92, WIDTH - 2 * MARGIN, text, 12, MUTED)
    reach = 1.06 * float(np.abs(trail).max()) or 1.0
    for head in range(num_heads):
        sheet.text(_left(head, panel) + panel / 2, TOP - 8, f"head {head + 1}", 11.5, weight="bold", align="center")
    for block in range(depth):
        y = TOP + block * (panel + GAP)
        sheet.text(MARGIN, y + panel / 2 + 4, f"block {block + 1}", 11.5, weight="bold")
        for head in range(num_heads):
            _draw_head(sheet, _left(head, panel), y, panel, trail[:, :, block, head], reach)
    _draw_key(sheet, MARGIN + LABELS, TOP + depth * (panel + GAP) + 24, len(trail))
    return sheet.pixels()


def _left(head: int, panel: int) -> float:
    return MARGIN + LABELS + head * (panel + GAP)


def _draw_head(sheet: Sheet, x: float, y: float, panel: int, trail: Floats, reach: float) -> None:
    """trail (T, 2, K): the frequencies of a head over time, in a square around 0 that reaches from -reach to reach."""
    middle, unit = panel / 2, panel / 2 / reach
    sheet.rectangle(x, y, panel, panel, edge=FAINT)
    sheet.line([x, x + panel], [y + middle] * 2, FAINT, 0.8)
    sheet.line([x + middle] * 2, [y, y + panel], FAINT, 0.8)
    rings = [ring for ring in RINGS if ring <= reach][-3:]
    for ring in rings:
        sheet.ellipse(x + middle, y + middle, 2 * ring * unit, 2 * ring * unit, FAINT, 0.8)
        if panel >= 120:
            corner = ring * unit * math.sqrt(0.5)
            sheet.text(x + middle + corner + 2, y + middle - corner - 2, f"{ring:g}", 8.5, MUTED)
    dot = 5.0 if panel >= 120 else 3.0
    points = np.stack([x + middle + trail[:, 0] * unit, y + middle + trail[:, 1] * unit])  # (2, T, K)
    for pair in range(points.shape[2]):
        xs, ys = points[:, :, pair]
        if len(xs) > 1:
            sheet.line(xs, ys, MUTED, 0.8)
            sheet.ellipse(xs[0], ys[0], dot, dot, MUTED, 0.8, fill="white")
        sheet.ellipse(xs[-1], ys[-1], dot, dot, ACCENT, 1, fill=ACCENT)


def _draw_key(sheet: Sheet, x: float, y: float, num_moments: int) -> None:
    """What the dots are."""
    names = [("now", ACCENT, ACCENT)] if num_moments == 1 else [("now", ACCENT, ACCENT), ("at first", MUTED, "white")]
    for number, (name, edge, fill) in enumerate(names):
        left = x + 90 * number
        sheet.ellipse(left + 4, y - 4, 7, 7, edge, 1, fill=fill)
        sheet.text(left + 14, y, name, 11.5)
    if num_moments > 1:
        sheet.line([x + 196, x + 222], [y - 4, y - 4], MUTED, 1)
        sheet.text(x + 228, y, f"the way between, over {num_moments} checkpoints", 11.5)


def _rounded(values: Floats) -> list[list[float | None]]:
    return [[None if math.isnan(value) else round(value, 6) for value in row] for row in values.tolist()]
