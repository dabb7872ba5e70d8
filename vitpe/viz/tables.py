"""The numbers of checkpoints as a table for people, and what each of them is called."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from vitpe.viz.history import evenly
from vitpe.viz.numbers import number_text


class NumberName(NamedTuple):
    """header: for narrow columns. name: in full. meaning: what it says, in a line."""

    header: str
    name: str
    meaning: str


NUMBER_NAMES = {
    "mirror_symmetry": NumberName(
        "mirror", "mirror symmetry", "correlation of each map with the flipped map of the mirrored patch"
    ),
    "mirror_excess": NumberName(
        "excess", "mirror excess", "similarity to the mirrored patch, minus that to others as far away in row or column"
    ),
    "eye_similarity": NumberName(
        "eye match",
        "left eye's best match",
        "similarity of the left eye's patches to their best match, not a neighbour",
    ),
    "eye_hit_rate": NumberName("eye hits", "… on the right eye", "share of these matches that lie on the right eye"),
    "border_coherence": NumberName(
        "border", "border coherence", "similarity of border patches to one another, minus to those inside"
    ),
    "distance_correlation": NumberName(
        "distance", "similarity and distance", "their correlation: negative when near patches are more alike"
    ),
    "row_structure": NumberName("rows", "row structure", "share of the embeddings' variance that tells rows apart"),
    "column_structure": NumberName(
        "columns", "column structure", "share of the embeddings' variance that tells columns apart"
    ),
}


def numbers_table(records: Sequence[dict[str, Any]], max_rows: int = 12) -> Table:
    """One line a checkpoint, at most `max_rows` of them, scored ones before others, and one for random embeddings.

    records: see `checkpoint_record`. Numbers that no checkpoint has, such as eyes without a face, are left out.
    """
    keys = [key for key in NUMBER_NAMES if any(record[key] is not None for record in records)]
    by_step = all(record["step"] is not None for record in records)
    table = Table(
        title="What the position embeddings know",
        caption="random: embeddings of the same shape that learned nothing",
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
    )
    table.add_column("step" if by_step else "file", justify="right", no_wrap=by_step, overflow="fold")
    table.add_column("valid", justify="right")
    for key in keys:
        table.add_column(NUMBER_NAMES[key].header, justify="right")
    for record in _shown(records, max_rows):
        accuracy = "–" if record["valid_accuracy"] is None else f"{record['valid_accuracy']:.1%}"
        name = f"{record['step']:,}" if by_step else record["file"]
        table.add_row(name, accuracy, *(number_text(record[key]) if record["defined"] else "–" for key in keys))
    table.add_section()
    table.add_row("random", "", *(number_text(records[0]["random"][key]) for key in keys))
    return table


def _shown(records: Sequence[dict[str, Any]], max_rows: int) -> list[dict[str, Any]]:
    """The scored ones and, where there is room, others evenly spread; the first and the last among them."""
    scored = [index for index, record in enumerate(records) if record["valid_accuracy"] is not None]
    room = max_rows - len(scored)
    indices = sorted({*scored, *evenly(len(records), room)}) if room >= 2 else evenly(len(records), max_rows)
    return [records[index] for index in indices]
