"""The rules that keep the house in order, read from the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vitpe

PACKAGE = Path(vitpe.__file__).parent
FLOORS = (
    {"__main__", "__init__"},
    {"cli", "api"},
    {"viz"},
    {"reporting"},
    {"inference", "training"},  # side by side: neither imports the other
    {"metrics"},
    {"runs"},
    {"model"},
    {"data"},
    {"faces"},
    {"celeba", "config", "device", "fields", "files", "launch", "outputs", "text", "errors"},
)
"""From the top down: a room imports itself and what lies below it."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TORCH = {"torch", "torchvision"}


def modules(*folders: str) -> list[Path]:
    found = [path for folder in folders or [""] for path in sorted((PACKAGE / folder).rglob("*.py"))]
    assert found
    return found


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def calls(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def room_of(path: Path, package: Path = PACKAGE) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def runs_up(path: Path, package: Path = PACKAGE) -> list[str]:
    """What a file imports from above its room, or from beside it."""
    room = room_of(path, package)
    others = {name.split(".")[1] for name in imports(path) if name.startswith("vitpe.")} - {room}
    ground = len(FLOORS) - 1
    return sorted(
        other
        for other in others & FLOOR_OF.keys()
        if FLOOR_OF[other] < FLOOR_OF[room] or (FLOOR_OF[other] == FLOOR_OF[room] != ground)
    )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    assert room_of(path) in FLOOR_OF
    assert not runs_up(path)


def test_every_room_says_what_it_is_for():
    for room in {path.parent for path in modules()} - {PACKAGE}:
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text())), room


@pytest.mark.parametrize("path", modules("viz", "metrics", "reporting"), ids=str)
def test_these_never_import_torch(path):
    assert not {name.split(".")[0] for name in imports(path)} & TORCH


def test_all_that_a_single_answer_needs_is_imported_without_torch():
    names = "cli.app data.sources data.file_samples inference.predict inference.align inference.eval_result runs.folder"
    code = (
        f"import sys; import {', '.join(f'vitpe.{name}' for name in names.split())}; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_imports_no_numpy():
    """predict says how many threads it may use before it is imported: afterwards nobody asks."""
    code = "import sys; import vitpe.cli.app; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", modules(), ids=str)
def test_only_the_command_line_prints(path):
    assert room_of(path) in ("cli", "__main__") or "print" not in calls(path)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["eval", "--help"], ["viz-pe", "--help"]], ids=str
)
def test_help_never_imports_torch(arguments):
    code = (
        "import sys; sys.argv = ['vitpe', *sys.argv[1:]]\n"
        "from vitpe.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'imageio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: vitpe" in done.stdout
    assert done.stderr == ""


def test_the_readers_of_imports_can_fail(tmp_path):
    (tmp_path / "training").mkdir()
    file = tmp_path / "training" / "bad.py"
    file.write_text("import torch.nn\ndef f():\n    from vitpe.inference.predict import x\n    print(1)\n")
    assert {"torch.nn", "vitpe.inference.predict"} <= imports(file)
    assert "print" in calls(file)
    assert runs_up(file, tmp_path) == ["inference"]
    file.write_text("from vitpe import viz\nfrom vitpe.runs import folder\nimport vitpe.cli.app\n")
    assert runs_up(file, tmp_path) == ["cli", "viz"]
