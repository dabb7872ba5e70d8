"""What --by says: the attributes whose labels part the images into groups. Torch-free."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from vitpe.config import MAX_PARTING
from vitpe.errors import UsageError
from vitpe.inference.predictions import nearest

_TERM: Final = re.compile(r"(.*?)\s*=\s*(.*)", re.DOTALL)
_VALUES: Final = {"0": 0, "1": 1, "-1": 0}

Terms = Mapping[str, int | None]
"""Attribute → None for both of its values, or the one that an image must have to be in a group."""


def parse_by(text: str) -> Terms:
    """ "Male,Young" parts by both attributes, four groups; "Male=1,Young" leaves out images that are not Male=1.

    Raises UsageError for anything else.
    """
    terms: dict[str, int | None] = {}
    for part in (part.strip() for part in text.split(",")):
        match = _TERM.fullmatch(part)
        name, value = (match[1], match[2]) if match else (part, None)
        if not name:
            raise UsageError(f"--by {text!r} names no attribute", "name one or several: --by Male,Young")
        if name in terms:
            raise UsageError(f"--by {text!r} names {name} twice", "name each attribute once")
        if value is not None and value not in _VALUES:
            raise UsageError(f"--by {part!r}: a label is 0 or 1", f"say --by {name}=1, or --by {name} for both")
        terms[name] = None if value is None else _VALUES[value]
    if len(terms) > MAX_PARTING:
        raise UsageError(
            f"--by names {len(terms)} attributes", f"name at most {MAX_PARTING}: groups soon are too small"
        )
    return terms


def check_terms(terms: Terms, attributes: Sequence[str]) -> None:
    """UsageError for an attribute that has no labels, with the nearest that have."""
    for name in terms:
        if name not in attributes:
            raise UsageError(f"--by {name}: there are no labels of that name", nearest(name, attributes))
