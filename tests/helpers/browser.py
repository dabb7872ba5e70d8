"""A page in headless Chromium: what a visitor would do, and what the page then shows."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium")
WIDE, PHONE = (1400, 900), (390, 844)
_QUIET = "--disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
_SEEN = re.compile(r"SEEN(.*)SEEN", re.DOTALL)
# Chromium's windows are at least 500 pixels wide: the page lies in a frame, whose width is what it asks for.
_FRAMED = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe src="page.html" width="{}" height="{}"></iframe>
<script>addEventListener("message", event => {{ document.body.textContent = event.data; }});</script>"""
_VISIT = """
<script>
addEventListener("load", async () => {{
  const seen = {{}};
  try {{
    {}
  }} catch (error) {{ seen.failed = String(error); }}
  (parent === window ? text => {{ document.body.textContent = text; }} : text => parent.postMessage(text, "*"))(
    "SEEN" + JSON.stringify(seen) + "SEEN");
}});
</script>
"""


def visit(
    text: str, script: str, folder: Path, size: tuple[int, int] = WIDE, dark: bool = False
) -> tuple[Any, list[str]]:
    """What `script` put into `seen`, and what the browser's console says.

    text: of the page. script: JavaScript, run in the page when it has loaded; it may await. size: (width, height).
    """
    (folder / "page.html").write_text(text + _VISIT.format(script), encoding="utf-8")
    (folder / "framed.html").write_text(_FRAMED.format(*size), encoding="utf-8")
    shown = _run(folder, size, dark, "--virtual-time-budget=10000", "--dump-dom")
    found = _SEEN.search(shown.stdout)
    assert found, shown.stdout[-2000:] + shown.stderr[-2000:]
    seen = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert "failed" not in seen, seen["failed"]
    return seen, re.findall(r":CONSOLE.*", shown.stderr)


def screenshot(text: str, folder: Path, path: Path, size: tuple[int, int] = WIDE, dark: bool = False) -> None:
    """A PNG of the page's first `size` pixels, for one's own eyes."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    (folder / "framed.html").write_text(_FRAMED.format(*size), encoding="utf-8")
    _run(folder, size, dark, "--virtual-time-budget=2000", f"--screenshot={path}")


def _run(folder: Path, size: tuple[int, int], dark: bool, *options: str) -> subprocess.CompletedProcess[str]:
    width, height = size
    command = [str(BROWSER), "--headless", "--no-sandbox", *_QUIET.split(), f"--user-data-dir={folder / 'user'}"]
    command += [f"--window-size={max(width, 500)},{height + 100}", "--enable-logging=stderr", "--hide-scrollbars"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--allow-file-access-from-files"]
    page = (folder / ("framed.html" if width < 500 else "page.html")).as_uri()
    return subprocess.run([*command, *options, page], capture_output=True, text=True, timeout=120, check=True)
