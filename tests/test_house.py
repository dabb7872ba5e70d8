"""The rules that keep the house in order, read from the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vitpe

PACKAGE = Path(vitpe.__file__).parent
MAX_LINES = 400
MAY_BE_LONGER = {"cli.py": 500}  # a declaration of every option
MAY_PRINT = {"__main__.py", "cli.py", "console.py"}


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
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


@pytest.mark.parametrize("path", [*modules("model"), PACKAGE / "scoring" / "metrics.py"], ids=str)
def test_the_model_and_the_metrics_know_no_files_and_no_printing(path):
    forbidden = {"pathlib", "io", "os", "json", "rich", "typer", "sys", "safetensors", "vitpe.files", "vitpe.console"}
    assert not {name.split(".")[0] if "vitpe" not in name else name for name in imports(path)} & forbidden
    assert not calls(path) & {"print", "open"}


@pytest.mark.parametrize("path", modules("viz"), ids=str)
def test_pictures_never_import_torch(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "torchvision"}


@pytest.mark.parametrize("path", modules(), ids=str)
def test_only_the_command_line_prints(path):
    if path.name not in MAY_PRINT:
        assert "print" not in calls(path) or "__main__" in path.read_text()
        assert "vitpe.console" not in imports(path)


@pytest.mark.parametrize("path", modules(), ids=str)
def test_no_pickle(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "shelve", "dill", "joblib"}
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert "torch.load" not in calls


@pytest.mark.parametrize("path", modules(), ids=str)
def test_a_file_is_about_one_thing(path):
    assert len(path.read_text().splitlines()) <= MAY_BE_LONGER.get(path.name, MAX_LINES)


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


def test_the_import_readers_can_fail(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("import torch.nn\ndef f():\n    from vitpe.files import write_atomic\n    print(1)\n")
    assert {"torch.nn", "vitpe.files"} <= imports(file)
    assert "print" in calls(file)
