"""Suspect labels for people: which attributes have most, and which labels contradict each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from vitpe.inference.suspects import SuspectLabels
from vitpe.reporting.terminal import MAX_NAME, Flow, Glyphs, bar, glyphs_for
from vitpe.text import printable

_NUM_ROWS: Final = 10
_BAR_WIDTH: Final = 10


def suspects_table(suspects: SuspectLabels) -> RenderableType:
    """The attributes with most suspects, and all contradictions that occur."""
    return _SuspectsTable(suspects)


@dataclass(frozen=True)
class _SuspectsTable:
    suspects: SuspectLabels

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options)
        yield Text()
        yield Text("suspect labels", style="bold")
        order = self._order()
        if len(order):
            yield self._rows(order[:_NUM_ROWS], glyphs)
            yield Text("0 to 1: labels 0 that should be 1, as confident learning estimates", style="dim")
        else:
            yield Text("the model contradicts none", style="dim")
        if len(order) > _NUM_ROWS:
            yield Text(f"and {len(order) - _NUM_ROWS} attributes with fewer", style="dim")
        yield Text()
        yield Text("labels that contradict each other", style="bold")
        yield Flow(tuple(self._contradictions()), style="dim")

    def _order(self) -> list[int]:
        """The attributes that have suspects, those with most first."""
        num_found = self.suspects.by_model.found.sum(axis=0)
        return [int(a) for a in np.argsort(-num_found, kind="stable") if num_found[a]]

    def _rows(self, order: list[int], glyphs: Glyphs) -> Table:
        by_model = self.suspects.by_model
        errors, num_found = by_model.num_errors(), by_model.found.sum(axis=0)
        table = Table(
            box=box.SIMPLE,
            show_edge=False,
            pad_edge=False,
            padding=(0, 0, 0, 1),
            header_style="bold",
            border_style="dim",
        )
        table.add_column("attribute", max_width=MAX_NAME, overflow="ellipsis", no_wrap=True)
        for heading in ("suspects", "of labels"):
            table.add_column(heading, justify="right")
        table.add_column("", width=_BAR_WIDTH)
        for heading in ("0 to 1", "1 to 0"):
            table.add_column(heading, justify="right", style="dim")
        for a in order:
            table.add_row(
                printable(by_model.attributes[a]),
                f"{num_found[a]:,}",
                f"{num_found[a] / len(by_model.found):.1%}",
                bar(num_found[a] / num_found.max(), _BAR_WIDTH, glyphs),
                f"{errors[a, 0]:,}",
                f"{errors[a, 1]:,}",
            )
        return table

    def _contradictions(self) -> Iterator[str]:
        found = self.suspects.contradictions
        counted = [(count, pair) for count, pair in zip(found.counts(), found.pairs, strict=True) if count]
        if not found.pairs:
            yield "no two of these attributes exclude each other"
        elif not counted:
            yield "none"
        for count, (first, second) in sorted(counted, key=lambda item: -item[0]):
            yield f"{first} and {second} {count:,}"
