"""How scores are written for people: headings, digits, dashes, and the parts that all tables share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from vitpe.inference.predictions import Subject
from vitpe.reporting.bars import UNICODE, Glyphs
from vitpe.text import printable

MAX_NAME = 28


@dataclass(frozen=True)
class Shown:
    """How a metric is written: over a narrow column, in full, its numbers. graded: the weakest are coloured."""

    heading: str
    name: str
    digits: int = 1
    percent: bool = True
    signed: bool = False
    graded: bool = False

    def text(self, value: float, glyphs: Glyphs = UNICODE, more_digits: int = 0, signed: bool | None = None) -> str:
        """`value` as text; a dash for NaN, and no sign before zero."""
        if math.isnan(value):
            return glyphs.dash
        digits = self.digits + more_digits
        scaled = round(100 * value if self.percent else value, digits) + 0.0  # never -0.0
        with_sign = self.signed if signed is None else signed
        return f"{scaled:+.{digits}f}" if with_sign and scaled else f"{scaled:.{digits}f}"


SHOWN: Mapping[str, Shown] = {
    "threshold": Shown("thr", "threshold", digits=2, percent=False),
    "prevalence": Shown("prev", "prevalence"),
    "accuracy": Shown("acc", "accuracy"),
    "majority_accuracy": Shown("major", "majority answer"),
    "lift": Shown("lift", "lift", signed=True),
    "balanced_accuracy": Shown("bal", "balanced accuracy", graded=True),
    "precision": Shown("prec", "precision", graded=True),
    "recall": Shown("rec", "recall", graded=True),
    "f1": Shown("F1", "F1", graded=True),
    "average_precision": Shown("AP", "average precision", graded=True),
    "roc_auc": Shown("AUC", "ROC AUC", graded=True),
    "brier": Shown("Brier", "Brier score", digits=3, percent=False),
    "ece": Shown("ECE", "calibration error", digits=3, percent=False, graded=True),
}


def subject_lines(subject: Subject, num_images: int, glyphs: Glyphs) -> Text:
    """Two lines: which checkpoint, and on which images it was scored how."""
    images = "image" if num_images == 1 else "images"
    parts = [f"{subject.data_source} {subject.split}", f"{num_images:,} {images}", f"thresholds {subject.thresholds}"]
    if subject.calibration is not None:
        parts.append(f"calibration {subject.calibration}")
    step = "" if subject.step is None else f"  step {subject.step:,}"
    how = printable(f" {glyphs.dot} ".join(parts))
    return Text.assemble((printable(subject.checkpoint), "bold"), (step, "dim"), "\n", (how, "dim"))


def interval_text(metric: str, low: float, high: float, signed: bool | None = None) -> str:
    """ "[86.90, 87.35]", with one digit more than the table's; empty where there is no interval."""
    if math.isnan(low):
        return ""
    shown = SHOWN[metric]
    return f"[{shown.text(low, more_digits=1, signed=signed)}, {shown.text(high, more_digits=1, signed=signed)}]"


def ruled_table() -> Table:
    """A table with a rule below its heading and one above its foot, columns two cells apart."""
    return Table(
        box=box.SIMPLE,
        show_edge=False,
        show_footer=True,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        header_style="bold",
        border_style="dim",
    )


def column_width(names: Sequence[str], heading: str) -> int:
    """Cells for a column of names, MAX_NAME at most."""
    return min(max(cell_len(name) for name in (heading, *names)), MAX_NAME)


@dataclass(frozen=True)
class Flow:
    """Short texts one after the other, broken into lines only between them."""

    items: tuple[str, ...]
    separator: str = ", "
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines: list[str] = []
        for item in self.items:
            if lines and cell_len(lines[-1] + self.separator + item) < options.max_width:
                lines[-1] += self.separator + item
            else:
                lines.append(item)
        yield Text(f"{self.separator.rstrip()}\n".join(lines), style=self.style)
