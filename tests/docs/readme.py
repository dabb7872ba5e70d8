"""README.md is input and output: what stands under a `$ command` in a console block is what the command printed.

Commands run in bash on a terminal 100 characters wide, one after another in one folder, as a reader would type them.
"""

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.helpers import REPOSITORY
from vitpe.config import PRESETS
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.viz.numbers import NUMBERS

README = REPOSITORY / "README.md"
PROMPT = "$ "
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_NUMBERS = re.compile(r"(?<=<!-- numbers -->\n).*?(?=<!-- end of numbers -->)", re.DOTALL)
_PRESETS = re.compile(r"(?<=<!-- presets -->\n).*?(?=<!-- end of presets -->)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: "console" is commands and what they print, "sh" commands alone, "python" a script; "bash" and
    "powershell" install or download, which no test does.
    """

    language: str
    text: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command and what is said to come of it, "" in a block of commands alone."""
        if self.language == "sh":
            for line in self.text.splitlines():
                if command := line.partition("  #")[0].strip():
                    yield command, ""
        elif self.language == "console":
            for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield command, output


def blocks(text: str) -> list[Block]:
    """Every fenced block that names its language."""
    return [Block(*match.groups()) for match in _BLOCK.finditer(text)]


def inline_commands(text: str) -> list[str]:
    """Every `vitpe …` and `make …` within the prose."""
    return re.findall(r"`((?:vitpe|make) [^`\n]*)`", _BLOCK.sub("", text))


def rewrite(text: str, run: Callable[[str], str]) -> str:
    """The README with the output of `run(command)` under every command, and with what presets and numbers are today."""

    def renewed(match: re.Match[str]) -> str:
        block = Block(*match.groups())
        if block.language != "console":
            return match[0]
        parts = [f"{PROMPT}{command}\n{run(command)}" for command, _ in block.commands()]
        return f"```console\n{''.join(parts)}```"

    text = _NUMBERS.sub(lambda _: numbers_table(), _BLOCK.sub(renewed, text))
    return _PRESETS.sub(lambda _: preset_table(), text)


def numbers_table() -> str:
    """Markdown: what `vitpe viz-pe` measures, by the names that its records have."""
    rows = [f"| `{key}` | {number.meaning} |\n" for key, number in NUMBERS.items()]
    return "| number | |\n| --- | --- |\n" + "".join(rows)


def preset_table() -> str:
    """Markdown: what each preset is, counted on the model itself."""
    lines = ["| preset | parameters | width × depth, heads | for |", "| --- | --- | --- | --- |"]
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            millions = num_parameters(VisionTransformer(preset.model)) / 1e6
        model = preset.model
        shape = f"{model.embed_dim} × {model.depth}, {model.num_heads}"
        lines.append(f"| `{name}` | {millions:.1f} M | {shape} | {preset.summary} |")
    return "\n".join(lines) + "\n"


def run_on_terminal(command: str, folder: Path) -> str:
    """What `bash -c command` shows in `folder`, stderr included. AssertionError when it fails, as `| head` does not."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "dumb",
        "COLUMNS": "100",
        "LINES": "40",
    }
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b"".join(_read(ours))
    os.close(ours)
    text = _COLOUR.sub("", shown.decode().replace("\r\n", "\n"))
    assert process.returncode in (0, 141), f"{command} ended with {process.returncode}:\n{text}"
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _read(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # how Linux says that the last writer is gone
            return
        if not data:
            return
        yield data


def run_script(script: str, folder: Path) -> None:
    """Run a python block in `folder`."""
    run_on_terminal(f"python -c {shlex.quote(script)}", folder)
