"""Two models compared group by group, for people: accuracies in per cent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.comparison import PairedDifference
from vitpe.metrics.group_comparison import GroupComparison
from vitpe.reporting.metric_formats import FORMATS
from vitpe.reporting.tables import info_lines, ruled_table
from vitpe.reporting.terminal import MAX_NAME, Glyphs, glyphs_for
from vitpe.text import printable

_ACCURACY: Final = FORMATS["accuracy"]
_NUMBERS: Final = 51
"""Cells of the columns of numbers and the space between them."""


def group_comparison_table(
    comparison: GroupComparison, first: EvalInfo, second: EvalInfo, sort: str | None = None
) -> RenderableType:
    """For each attribute the accuracy in each model's worst group, and below it that in each group, with differences.

    sort: "difference" for the largest gain in the worst group first, "-difference" for the least, None for the
    attributes' order.
    """
    gains = -comparison.worst.value * (-1 if sort == "-difference" else 1)
    order = np.argsort(gains, kind="stable").tolist() if sort else range(len(gains))
    return _GroupComparisonTable(comparison, first, second, order)


@dataclass(frozen=True)
class _GroupComparisonTable:
    comparison: GroupComparison
    first: EvalInfo
    second: EvalInfo
    order: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options)
        groups = self.comparison.first
        for letter, info in (("A", self.first), ("B", self.second)):
            yield Text.assemble((f"{letter}  ", "bold cyan"), info_lines(info, int(groups.counts.sum()), glyphs))
        yield Text()
        yield self._rows(options.max_width, glyphs)
        yield Text()
        yield Text(
            f"A row of an attribute is its accuracy in each model's own worst group of {groups.min_count} images or "
            f"more, and smaller groups are dim. {glyphs.better} {glyphs.worse} mark a difference whose 95 % interval "
            f"over {self.comparison.num_resamples:,} resamples of the images does not hold 0; that of a dozen images "
            "is too narrow.",
            style="dim",
        )

    def _rows(self, width: int, glyphs: Glyphs) -> Table:
        comparison, groups = self.comparison, self.comparison.first
        names = [*map(printable, groups.attributes), *(f"  {printable(name)}" for name in groups.groups)]
        name_width = max(min(max(map(cell_len, names)), MAX_NAME, width - _NUMBERS), 10)
        table = ruled_table()
        table.show_footer = False
        table.add_column("accuracy", width=name_width, overflow="fold")
        for title, column in (("n", 6), ("A", 5), ("B", 5), ("B-A", 6), ("", 1)):
            table.add_column(title, justify="right", width=column)
        table.add_column("95 % interval", justify="right", width=16)
        before, after = comparison.worst_accuracies()
        for a in self.order:
            cells = self._cells(float(before[a]), float(after[a]), comparison.worst, a, glyphs)
            table.add_row(Text(printable(groups.attributes[a]), style="bold"), Text(), *cells)
            for g, count in enumerate(groups.counts.tolist()):
                style = "" if groups.ranked["accuracy"][g, a] else "dim"
                first, second = (float(each["accuracy"][g, a]) for each in (groups, comparison.second))
                cells = self._cells(first, second, comparison.differences["accuracy"], (g, a), glyphs)
                name = Text(f"  {printable(groups.groups[g])}", style=style)
                table.add_row(name, Text(f"{count:,}", style=style), *cells, style=style)
        return table

    def _cells(
        self, before: float, after: float, change: PairedDifference, at: int | tuple[int, int], glyphs: Glyphs
    ) -> list[Text]:
        style, mark = "", ""
        if change.exceeds[at]:
            style, mark = ("green", glyphs.better) if change.value[at] > 0 else ("red", glyphs.worse)
        ends = _ACCURACY.interval(float(change.low[at]), float(change.high[at]), glyphs, 0, signed=True)
        return [
            Text(_ACCURACY.text(before, glyphs)),
            Text(_ACCURACY.text(after, glyphs)),
            Text(_ACCURACY.text(float(change.value[at]), glyphs, signed=True), style=style),
            Text(mark, style=style),
            Text(ends, style="dim"),
        ]
