"""How long the commands take to start, against the imports that they cannot do without."""

import subprocess
import sys

from tests.benchmarks.measure import Row, compare

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import torch, torchvision": [sys.executable, "-c", "import torch, torchvision"],
    "vitpe --help": [sys.executable, "-m", "vitpe", "--help"],
    "vitpe train --help": [sys.executable, "-m", "vitpe", "train", "--help"],
    "vitpe viz-pe --help": [sys.executable, "-m", "vitpe", "viz-pe", "--help"],
    "vitpe --version": [sys.executable, "-m", "vitpe", "--version"],
}


def measure(repeats: int = 7) -> list[Row]:
    def starts(command: list[str]) -> float:
        subprocess.run(command, check=True, capture_output=True)
        return 1.0

    contenders = {name: lambda command=command: starts(command) for name, command in COMMANDS.items()}
    return compare("start-up", "starts/s", contenders, repeats, ours="vitpe --help")
