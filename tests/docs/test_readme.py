"""README.md: its commands work, what needs no training in it is current, and nothing that it names is missing.

`make docs` writes the outputs that need a trained model; see tests.docs.
"""

import re
import shlex
import shutil
import tomllib

import pytest
import typer

from tests.docs.readme import (
    README,
    blocks,
    inline_commands,
    numbers_table,
    preset_table,
    rewrite,
    run_on_terminal,
    run_script,
)
from tests.helpers import REPOSITORY
from tests.helpers.in_process import call_vitpe
from vitpe.cli.app import app

TEXT = README.read_text()
COMMANDS = [command for block in blocks(TEXT) for command, _ in block.commands()]
SMALL = "--steps 2 --num-train 16 --num-valid 8"
PARSED_ONLY = ("torchrun", "vit_small", "--align", "export")  # they have tests of their own
GROUP = typer.main.get_command(app)


def parse(command: str) -> None:
    """Read the options of `vitpe …` as the command line would, and do nothing."""
    name, *arguments = shlex.split(command.partition(" | ")[0])[1:]
    GROUP.commands[name].make_context(name, arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader may be: a model, drawn faces, photos with labels, and CelebA."""
    folder = tmp_path_factory.mktemp("readme")
    for command in (
        "vitpe draw faces",
        "vitpe draw celeba --num-train 16 --num-valid 8 --num-test 8",
        "vitpe draw celeba-parquet --format parquet --num-train 16 --num-valid 8 --num-test 8",
        f"vitpe train --data celeba {SMALL}",
        f"vitpe train --data celeba --set model.global_pool=token --run plain {SMALL}",
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert call_vitpe(*shlex.split(command)[1:]).code == 0
    shutil.copytree(folder / "runs" / "1", folder / "runs" / "celeba")
    images = folder / "faces" / "img_align_celeba"
    shutil.copytree(images, folder / "photos")
    shutil.copy(images / "000001.jpg", folder / "face.jpg")
    splits = ["train", "train", "train", "train", "valid", "valid", "test", "test"]
    rows = [f"{number + 1:06d}.jpg,{number % 2},{split}" for number, split in enumerate(splits)]
    (folder / "labels.csv").write_text("\n".join(["path,Smiling,split", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make ")])
def test_commands_work(command, folder, monkeypatch):
    if any(word in command for word in PARSED_ONLY):
        parse(command.replace("torchrun --nproc-per-node 4 -m -- ", ""))
    elif "|" in command or ">" in command:
        assert shutil.which("jq") or "jq" not in command
        shown, file = run_on_terminal(command, folder), re.search(r"> (\S+)$", command)
        assert (folder / file[1]).read_bytes() if file else shown
    else:
        monkeypatch.chdir(folder)
        arguments = shlex.split(command)[1:]
        if arguments == ["draw", "faces"]:
            arguments[1] = "other"
        if arguments[0] == "train":
            arguments += [*shlex.split(SMALL), "--run", f"new/{COMMANDS.index(command)}"]
        called = call_vitpe(*arguments)
        assert (called.code, bool(called.out)) == (0, True), called.stderr


INSTALLING = [block.text for block in blocks(TEXT) if block.language in ("bash", "powershell")]


def test_what_is_installed_exists():
    lines = [line.partition("  #")[0].strip() for block in INSTALLING for line in block.splitlines()]
    assert "pip install ." in lines
    for line in lines:
        if line.startswith("vitpe "):
            parse(line)
    shell = "\n".join(block.text for block in blocks(TEXT) if block.language == "bash")
    run_on_terminal(f"bash -n -c {shlex.quote(shell)}", REPOSITORY)


@pytest.mark.parametrize("block", [block.text for block in blocks(TEXT) if block.language == "python"])
def test_scripts_work(block, folder):
    run_script(block, folder)


@pytest.mark.parametrize("command", inline_commands(TEXT))
def test_commands_in_the_prose_exist(command):
    if command.startswith("vitpe --"):
        assert command.split()[1] in call_vitpe("--help").stdout
    elif command.startswith("vitpe"):
        assert command.split()[1] in GROUP.commands
        if len(command.split()) > 2:
            parse(command)


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_examples_of_the_help_parse(name):
    examples = GROUP.commands[name].epilog.splitlines()
    assert examples
    for example in examples:
        assert f"  {example}\n" in call_vitpe(name, "--help").stdout
        parse(example.partition(" > ")[0].rpartition(" | ")[2])


def test_make_has_its_targets():
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = {command.split()[1] for command in [*COMMANDS, *inline_commands(TEXT)] if command.startswith("make ")}
    assert {"demo", "test", "docs"} <= named <= targets


def test_pictures_and_extras_exist():
    for picture in re.findall(r"!\[.+?\]\((.+?)\)", TEXT):
        assert (REPOSITORY / picture).is_file(), picture
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"pip install '(?:vitpe|\.)\[([\w,]+)\]'", TEXT)
    assert {extra for names in named for extra in names.split(",")} <= set(extras)


def test_every_command_is_there():
    assert {f"vitpe {name}" for name in GROUP.commands} <= {
        " ".join(command.split()[:2]) for command in [*COMMANDS, *inline_commands(TEXT)]
    }


def test_the_presets_are_those_of_today():
    assert f"<!-- presets -->\n{preset_table()}<!-- end of presets -->" in TEXT


def test_the_numbers_are_those_of_today():
    assert f"<!-- numbers -->\n{numbers_table()}<!-- end of numbers -->" in TEXT


def test_every_console_command_has_its_output():
    assert all(output for block in blocks(TEXT) if block.language == "console" for _, output in block.commands())


def test_rewriting_replaces_outputs_and_nothing_else():
    text = "a\n```console\n$ one\nold\n$ two | x\n```\n```sh\n$ three  # note\n```\n"
    again = rewrite(text, lambda command: f"<{command}>\n")
    assert again == "a\n```console\n$ one\n<one>\n$ two | x\n<two | x>\n```\n```sh\n$ three  # note\n```\n"
    assert rewrite(again, lambda command: f"<{command}>\n") == again


def test_a_failing_command_is_no_output(tmp_path):
    with pytest.raises(AssertionError, match="ended with 3"):
        run_on_terminal("echo here; exit 3", tmp_path)
    assert run_on_terminal("test -t 1 && echo a && echo b >&2", tmp_path) == "a\nb\n"
