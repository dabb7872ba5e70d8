"""Which columns of a dataset are attributes, where nothing but their values tells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.label_table import check_attributes
from vitpe.errors import VitpeError

OTHER: Final = 2
NULL: Final = 3
"""What stands in place of a value that is neither 1, 0 nor -1, and of none."""
NO_ATTRIBUTES: Final = frozenset({"celebid", "identity", "personid", "id", "imageid", "imgid", "index"})
"""Names, as `plain` gives them, of numbers that are no attributes even where they are 0 and 1."""
_NO_PARTS: Final = str.maketrans("", "", "_- ")


@dataclass(frozen=True)
class LabelColumns:
    """attributes: names. labels: (rows, attributes) uint8, 0 or 1. left_out: name → what it holds instead of labels."""

    attributes: tuple[str, ...]
    labels: NDArray[np.uint8]
    left_out: dict[str, str]


def plain(name: str) -> str:
    """In lower case, without "_", "-" and spaces."""
    return name.lower().translate(_NO_PARTS)


def choose_columns(
    path: object,
    names: Sequence[str],
    values: NDArray[np.int8],
    where: Callable[[int], str],
    value_of: Callable[[int, int], Any],
) -> LabelColumns:
    """Of columns of whole numbers or booleans those that are labels: at least half of the values are 0, 1 or -1.

    values: (rows, columns) of 1, 0, -1, OTHER and NULL. path: of the data; where: of a row; value_of: by row and
    column, what it really is; these are for messages. Raises VitpeError for an attribute with a value that is missing,
    or something else, and with both 0 and -1, which would leave open what 0 means; and when there is no attribute.
    """
    kept, left_out = [], {}
    for column, name in enumerate(names):
        cells = values[:, column]
        others, there = np.count_nonzero(cells == OTHER), np.count_nonzero(cells != NULL)
        if 2 * others > there or not there:
            left_out[name] = "numbers" if there else "empty"
            continue
        for code in (NULL, OTHER):
            if (cells == code).any():
                row = int((cells == code).argmax())
                value = value_of(row, column)
                what = "is empty" if value is None else f"is {str(value)[:60]}"
                raise VitpeError(f"{where(row)}: {name} {what}", "labels are true and false, 0 and 1, or -1 and 1")
        if (cells == 0).any() and (cells == -1).any():
            zero, minus = (where(int((cells == value).argmax())) for value in (0, -1))
            raise VitpeError(f"{name} is 0 in {zero}, -1 in {minus}", "a column is 0 and 1, or -1 and 1, not both")
        kept.append(column)
    chosen = [names[column] for column in kept]
    bare = [name.rpartition(".")[2] for name in chosen]
    attributes = tuple(bare if len(set(bare)) == len(bare) else chosen)
    if not attributes:
        columns = f" ({', '.join(names)[:200]})" if names else ""
        raise VitpeError(f"{path} has no column of labels{columns}", "labels are true and false, 0 and 1, or -1 and 1")
    try:
        check_attributes(attributes)
    except VitpeError as error:
        raise VitpeError(f"{path}: {error.message}", error.hint) from error
    return LabelColumns(attributes, np.equal(values[:, kept], 1).astype(np.uint8), left_out)


def left_out_note(left_out: dict[str, str]) -> str | None:
    """What is left out, in a line; None for nothing."""
    columns = ", ".join(f"{name} ({kind})" for name, kind in left_out.items())
    return f"columns that are no attributes are left out: {columns[:300]}" if columns else None
