"""What a shell offers after an option. It must come at once: nothing is imported here that computes."""

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import typer

from vitpe.celeba import ATTRIBUTES
from vitpe.config import RunConfig
from vitpe.errors import VitpeError
from vitpe.fields import to_json
from vitpe.files import open_to_read
from vitpe.metrics.names import SORT_KEYS
from vitpe.runs.find import default_run, weights_file
from vitpe.runs.tensor_file import open_tensors

DEVICES: Final = ("cpu", "cuda", "mps")
COLOUR_MAPS: Final = tuple("viridis plasma inferno magma cividis turbo gray coolwarm RdBu_r".split())
"""Of matplotlib's, which has many more and takes long to say them."""
_MAX_LINE: Final = 1_000_000
_UNREADABLE: Final = (VitpeError, OSError, ValueError, LookupError, TypeError, RuntimeError, csv.Error)
"""What a file that is damaged, or that is none, may raise: the command itself tells of it."""
_PLAIN: Final = re.compile(r"[\w.+=-]+")
"""What every shell takes as it stands. A file's names may be anything, and shells evaluate what is offered."""


def settings(incomplete: str) -> list[str]:
    """Of --set: keys of config.json, and of a single one its values, or its default where they are not few.

    With two to choose from, bash adds no space after KEY=.
    """
    keys = [key for key in _types() if f"{key}=".startswith(incomplete) or incomplete.startswith(f"{key}=")]
    if len(keys) != 1:
        return [f"{key}=" for key in keys]
    values = choices(keys[0]) or ["", *filter(_PLAIN.fullmatch, [_default(keys[0])])]
    return [f"{keys[0]}={value}" for value in values]


def _default(key: str) -> str:
    section, _, name = key.partition(".")
    return json.dumps(to_json(RunConfig())[section][name])


def choices(key: str) -> list[str]:
    """The values that a key of config.json can have, as --set takes them; none where they are not few."""
    kinds = [kind for kind in (_types().get(key), *get_args(_types().get(key))) if kind is not None]
    if bool in kinds:
        return ["true", "false"]
    return [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]


@cache
def _types() -> dict[str, Any]:
    """Of each key of config.json."""
    sections = get_type_hints(RunConfig)
    return {
        f"{section}.{field.name}": get_type_hints(of)[field.name]
        for section, of in sections.items()
        if is_dataclass(of)
        for field in fields(of)
    }


def sort_columns(context: typer.Context) -> list[str]:
    """Of `eval --sort`, with what --by and --compare bring before it."""
    compare, by = context.params.get("compare"), context.params.get("by")
    if compare:
        return ["difference"] if by else ["difference", *SORT_KEYS]
    return ["gap", *SORT_KEYS] if by else list(SORT_KEYS)


def attributes_to_train(context: typer.Context, incomplete: str) -> list[str]:
    """A,B of `train`: CelebA's names, which drawn faces have, too; none for images with labels of their own."""
    return [] if context.params.get("labels") else _listed(incomplete, ATTRIBUTES)


def attributes_of_model(context: typer.Context, incomplete: str) -> list[str]:
    """A,B of a command that takes a checkpoint: the names of its answers, or CelebA's where none can be read."""
    try:
        names = [name for name in _names(context) if isinstance(name, str)]
    except _UNREADABLE:
        names = list(ATTRIBUTES)
    return _listed(incomplete, names)


def _names(context: typer.Context) -> Iterable[Any]:
    """Of the answers in a file, or of the checkpoint; one of _UNREADABLE where it is none."""
    answers, named = context.params.get("from_answers"), context.params.get("checkpoint")
    if answers is not None:
        with open_to_read(Path(answers).expanduser()) as file:
            line = file.read(_MAX_LINE).partition(b"\n")[0].decode()
        if line.startswith("{"):
            return list(json.loads(line)["labels"])
        cells = next(csv.reader([line.removeprefix("\ufeff")]))
        return [cell.removeprefix("label:") for cell in cells if cell.startswith("label:")]
    if "checkpoints" in context.params and context.args:  # an argument stays there while an option lacks its value
        named = context.args[0]
    path = default_run("weights", lambda _: None) if named is None else Path(named).expanduser()
    with open_tensors(weights_file(path)) as tensors:
        return list(json.loads(tensors.metadata["vitpe"])["attributes"])


def _listed(incomplete: str, names: Iterable[str]) -> list[str]:
    """Each name after those that stand there, without these."""
    begun, comma, _ = incomplete.rpartition(",")
    return [f"{begun}{comma}{name}" for name in names if _PLAIN.fullmatch(name) and name not in begun.split(",")]
