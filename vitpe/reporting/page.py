"""What all web pages share: one file that loads nothing from elsewhere, its data in it as JSON, light and dark.

A template is HTML with places: {{head}} in its head, where the title, the fonts and the colours come; {{data}} in
front of its own script, where its data and the helpers of base.js come; {{title}} anywhere; {{name.js}} in a script,
where another file of pages/ comes. A page's script then has `data`, and from base.js `at`, `make`, `number`, `percent`,
`sortable`, `chart` and `unpack`, the opposite of `packed`.
"""

import base64
import html
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.outputs import MARK
from vitpe.text import printable

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_DATA: Final = '<script type="application/json" id="data">'
_PLACE: Final = re.compile(r"\{\{(head|data|title|\w+\.js)\}\}")


def render(template: str, title: str, data: Mapping[str, Any]) -> str:
    """The page. template: its text. title: any text. data: what JSON can hold, None for what is undefined.

    No text in `title` or `data`, be it the name of a file or an attribute, is taken for markup. ValueError for NaN.
    """
    shown = html.escape(printable(title))
    parts = {"head": _head(shown), "data": _data(data), "title": shown}
    return _PLACE.sub(lambda place: parts[place[1]] if place[1] in parts else shared_text(place[1]), template)


def packed(parts: Iterable[NDArray[np.uint8]]) -> str:
    """The bytes of all parts, one after the other, compressed and as text."""
    return base64.b64encode(zlib.compress(b"".join(part.tobytes() for part in parts), 9)).decode("ascii")


def stored_data(page: str) -> Any:
    """`data` of a page that `render` made; LookupError or ValueError for anything else."""
    _, _, rest = page.partition(_DATA)
    text, end, _ = rest.partition("</script>")
    if not end:
        raise LookupError("no data")
    return json.loads(text)


@cache
def shared_text(name: str) -> str:
    """A file of vitpe/reporting/pages."""
    return resources.files("vitpe.reporting").joinpath("pages", name).read_text(encoding="utf-8")


def _head(title: str) -> str:
    return f"""<meta charset="utf-8">
<meta name="generator" content="{MARK}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{shared_text("base.css")}</style>"""


def _data(data: Mapping[str, Any]) -> str:
    # No text can end the script element. Letters are escaped, so that a file's name may hold bytes that are no text.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<noscript><p>This page needs JavaScript to show its data. It loads nothing from elsewhere.</p></noscript>
{_DATA}{text}</script>
<script>
{shared_text("base.js")}</script>"""
