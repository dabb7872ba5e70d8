"""A contact sheet as one picture, drawn by Pillow in matplotlib's font, so that it looks the same everywhere."""

import io
import math
from functools import cache
from pathlib import Path
from typing import Final

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from vitpe.outputs import PNG_SOFTWARE
from vitpe.reporting.contact_sheet import ContactSheet, Tile
from vitpe.reporting.predict_table import percent
from vitpe.text import printable

_INK, _MUTED, _FAINT, _PRESENT, _ABSENT = "#1d2433", "#667085", "#e4e7ec", "#1f7a8c", "#98a2b3"
_WIDTH, _MAX_HEIGHT = 200, 260  # pixels of an image, at most
_GAP, _MARGIN, _LINE = 24, 28, 20
_FILE, _ROW = 26, 27  # of the file's name, and of an attribute: its name and its bar
_MIN_COLUMNS, _MAX_COLUMNS = 3, 6
_ASPECT: Final = 1.5  # columns to rows of few images


def sheet_png(sheet: ContactSheet) -> bytes:
    """A PNG of the sheet's images in rows."""
    count = len(sheet.tiles)
    columns = min(_MAX_COLUMNS, max(_MIN_COLUMNS, math.ceil(math.sqrt(_ASPECT * count))))
    rows = math.ceil(count / columns)
    height, width = _view_size(sheet.info.model.img_size)
    num_shown = max((len(tile.shown) for tile in sheet.tiles), default=0)
    tile_height = height + _FILE + num_shown * _ROW + _GAP
    total = 2 * _MARGIN + columns * (_WIDTH + _GAP) - _GAP
    lines = [line for text in sheet.lines() for line in _wrap(text, 13, total - 2 * _MARGIN)]
    head = _MARGIN + 34 + _LINE * len(lines) + 14
    picture = Image.new("RGB", (total, head + rows * tile_height + _MARGIN - _GAP), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN), _shorten(sheet.title(), 20, total - 2 * _MARGIN, bold=True), _INK, _font(20, True))
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + 34 + number * _LINE), line, _MUTED, _font(13))
    rates = sheet.base_rates
    for number, tile in enumerate(sheet.tiles):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * (_WIDTH + _GAP), head + row * tile_height
        _draw_image(picture, tile, (left, top), (width, height))
        top += height + 5
        name = Path(tile.prediction.file).name or tile.prediction.file
        draw.text((left, top), _shorten(printable(name) + tile.which_face, 12, _WIDTH), _MUTED, _font(12))
        top += _FILE - 5
        for attribute in tile.shown:
            _draw_attribute(draw, tile, attribute, rates.get(attribute), (left, top))
            top += _ROW
    described = PngInfo()
    described.add_text("Software", PNG_SOFTWARE)
    described.add_itxt("Title", sheet.title())
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=described)
    return data.getvalue()


def _view_size(img_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which the model's images are shown."""
    scale = min(_WIDTH / img_size[1], _MAX_HEIGHT / img_size[0])
    return max(1, round(img_size[0] * scale)), max(1, round(img_size[1] * scale))


def _draw_image(picture: Image.Image, tile: Tile, place: tuple[int, int], size: tuple[int, int]) -> None:
    """The image, or why there is none, from its top left corner."""
    left, top = place
    if tile.jpeg is not None:
        with Image.open(io.BytesIO(tile.jpeg)) as image:
            picture.paste(image.resize(size, Image.Resampling.LANCZOS), (left + (_WIDTH - size[0]) // 2, top))
        return
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top, left + _WIDTH - 1, top + size[1] - 1), _FAINT)
    lines = _wrap(printable(tile.prediction.no_answer or "no image"), 12, _WIDTH - 20)
    for number, line in enumerate(lines[: max(1, size[1] // _LINE - 1)]):
        draw.text((left + 10, top + 10 + number * 17), _shorten(line, 12, _WIDTH - 20), _INK, _font(12))


def _draw_attribute(
    draw: ImageDraw.ImageDraw, tile: Tile, attribute: str, rate: float | None, place: tuple[int, int]
) -> None:
    left, top = place
    prob, present = tile.prediction.probs[attribute], attribute in tile.prediction.present
    words, font = percent(prob), _font(12, present)
    draw.text((left + _WIDTH, top), words, _INK if present else _MUTED, font, anchor="ra")
    room = _WIDTH - font.getlength(words) - 8
    draw.text((left, top), _shorten(printable(attribute), 12, room, present), _INK if present else _MUTED, font)
    top += 19
    draw.rectangle((left, top, left + _WIDTH - 1, top + 3), _FAINT)
    if (filled := round(_WIDTH * prob)) > 0:
        draw.rectangle((left, top, left + filled - 1, top + 3), _PRESENT if present else _ABSENT)
    if rate is not None:
        x = left + min(_WIDTH - 2, max(0, round(_WIDTH * rate) - 1))
        draw.rectangle((x, top - 2, x + 1, top + 5), _INK)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, size)


def _shorten(text: str, size: int, width: float, bold: bool = False) -> str:
    """The text, or its beginning and end with an ellipsis between them, at most so many pixels wide."""
    font = _font(size, bold)
    if font.getlength(text) <= width:
        return text
    for kept in range(min(len(text), 200) - 1, 1, -1):
        short = f"{text[: kept - kept // 3]}…{text[-(kept // 3) :]}" if kept // 3 else f"{text[:kept]}…"
        if font.getlength(short) <= width:
            return short
    return "…"


def _wrap(text: str, size: int, width: float) -> list[str]:
    """Lines of at most so many pixels; a longer word stands alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and _font(size).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
