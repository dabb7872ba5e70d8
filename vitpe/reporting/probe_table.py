"""What a model loses without position, for a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from vitpe.inference.positions import CHANGES
from vitpe.inference.probe_result import PositionProbe
from vitpe.metrics.ablation import Ablations
from vitpe.metrics.comparison import PairedDifference
from vitpe.reporting.metric_formats import FORMATS
from vitpe.reporting.tables import info_lines, ruled_table
from vitpe.reporting.terminal import MAX_NAME, Glyphs, glyphs_for
from vitpe.text import printable

RANKED_BY: Final = "shuffled"
"""The change whose losses say which attributes lose most: one that leaves each embedding as it was learned."""
HISTORY_CHANGES: Final = ("zeroed", RANKED_BY)
NUM_LOSERS: Final = 8
_NOTHING: Final = 1e-4
_TITLES: Final = {"accuracy": "acc", "average_precision": "mAP"}
_WIDTHS: Final = (5, 5, 14)
_LOSS_STYLE: Final = "red"


def losers(ablations: Ablations, change: str = RANKED_BY, count: int = NUM_LOSERS) -> list[int]:
    """The numbers of the attributes that lose average precision, the one that loses most first."""
    lost = ablations.parts[change].per_attribute["average_precision"].value
    return [int(a) for a in np.argsort(lost, kind="stable") if lost[a] < -_NOTHING][:count]


def probe_table(probe: PositionProbe) -> RenderableType:
    """A line for each change with mean accuracy and mAP, then the attributes that lose most."""
    ablations = probe.ablations
    named = replace(ablations, attributes=tuple(map(printable, ablations.attributes)))
    return _ProbeTable(replace(probe, ablations=named))


def history_table(probes: Sequence[PositionProbe]) -> RenderableType:
    """A line for each checkpoint with what some changes take from its scores, so that one sees when position counts."""
    return _HistoryTable(probes)


@dataclass(frozen=True)
class _HistoryTable:
    probes: Sequence[PositionProbe]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options)
        for metric, title in _TITLES.items():
            table = ruled_table()
            table.show_footer = False
            for heading in ("step", title, *(text for name in HISTORY_CHANGES for text in (name, "95 % interval"))):
                table.add_column(heading, justify="right", no_wrap=True)
            for probe in self.probes:
                ablations = probe.ablations
                cells = [Text(FORMATS[metric].text(ablations.means[metric].value, glyphs))]
                for name in HISTORY_CHANGES:
                    cells += _difference(metric, ablations.parts[name].mean_change[metric], (), glyphs)
                table.add_row(glyphs.dash if probe.info.step is None else f"{probe.info.step:,}", *cells)
            yield Text()
            yield table


@dataclass(frozen=True)
class _ProbeTable:
    probe: PositionProbe

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options)
        ablations = self.probe.ablations
        yield info_lines(self.probe.info, ablations.num_images, glyphs)
        yield Text()
        yield self._means(glyphs)
        yield Text()
        if losers(ablations):
            yield self._losers(glyphs)
            yield Text()
        yield self._layers(glyphs)
        yield Text()
        num_draws = len(ablations.parts[RANKED_BY].draws["accuracy"])
        yield Text(
            f"per cent; differences are to the embeddings as they are, [95 % interval] over {ablations.num_resamples:,}"
            f" resamples of the images; shuffled: the mean of {num_draws} orders; chance: the majority answer, a random"
            " ranking. row, column: shares of the tokens after a block whose place a linear map tells, in"
            f" {self.probe.layers.num_held_out} images held out; zeroed: of the model without position. distance: of"
            " attention, in patches, with the nearest and the farthest head",
            style="dim",
        )

    def _means(self, glyphs: Glyphs) -> RenderableType:
        ablations = self.probe.ablations
        means = ablations.means
        chance = {"accuracy": means["majority_accuracy"].value, "average_precision": means["prevalence"].value}
        table = _table("position embeddings", tuple(_TITLES.values()))

        def row(name: str, values: Sequence[float], changes: Sequence[PairedDifference | None]) -> None:
            cells: list[RenderableType] = []
            for metric, value, change in zip(chance, values, changes, strict=True):
                cells += [Text(FORMATS[metric].text(value, glyphs)), *_difference(metric, change, (), glyphs)]
            table.add_row(Text(name), *cells)

        row("as they are", [means[metric].value for metric in chance], [None, None])
        for change in CHANGES:
            part = ablations.parts[change.name]
            row(change.name, [part.means[m] for m in chance], [part.mean_change[m] for m in chance])
        table.add_section()
        row("chance", list(chance.values()), [None, None])
        return table

    def _losers(self, glyphs: Glyphs) -> RenderableType:
        ablations = self.probe.ablations
        shown = ("zeroed", RANKED_BY)
        table = _table("AP: most lost", shown)
        metric = "average_precision"
        for a in losers(ablations):
            cells: list[RenderableType] = []
            for name in shown:
                part = ablations.parts[name]
                value = Text(FORMATS[metric].text(float(part.values[metric][a]), glyphs))
                cells += [value, *_difference(metric, part.per_attribute[metric], a, glyphs)]
            table.add_row(Text(ablations.attributes[a], overflow="ellipsis", no_wrap=True), *cells)
        return table

    def _layers(self, glyphs: Glyphs) -> RenderableType:
        layers, (rows, columns) = self.probe.layers, self.probe.grid_size
        table = ruled_table()
        table.show_footer = False
        table.add_column("after block", no_wrap=True)
        for title in ("row", "column", "row, zeroed", "column, zeroed", "distance", "heads"):
            table.add_column(title, justify="right", no_wrap=True)
        for layer, (known, without) in enumerate(zip(layers.places.value, layers.places_without.value, strict=True)):
            cells = [f"{100 * share:.1f}" for share in (*known, *without)]
            if layer:
                heads = layers.distances.value[layer - 1]
                cells += [f"{heads.mean():.1f}", f"{heads.min():.1f} {glyphs.dash} {heads.max():.1f}"]
            table.add_row(str(layer) if layer else "none", *cells)
        table.add_section()
        chance = [f"{100 / count:.1f}" for count in (rows, columns)]
        table.add_row("chance", *chance, *chance, f"{layers.uniform_distance:.1f}")
        return table


def _table(first: str, groups: Sequence[str]) -> Table:
    table = ruled_table()
    table.show_footer = False
    table.add_column(first, max_width=MAX_NAME, no_wrap=True)
    for title in groups:
        table.add_column(title, justify="right", min_width=_WIDTHS[0], no_wrap=True)
        table.add_column("", justify="right", min_width=_WIDTHS[1], no_wrap=True)
        table.add_column("95 % interval", justify="right", min_width=_WIDTHS[2], no_wrap=True)
    return table


def _difference(metric: str, change: PairedDifference | None, at: int | tuple[()], glyphs: Glyphs) -> tuple[Text, Text]:
    """The difference and its interval; a loss that exceeds its interval is red."""
    if change is None:
        return Text(), Text()
    value, low, high = (float(values[at]) for values in (change.value, change.low, change.high))
    style = _LOSS_STYLE if change.exceeds[at] and value < 0 else ""
    shown = FORMATS[metric]
    return (
        Text(shown.text(value, glyphs, signed=True), style=style),
        Text(shown.interval(low, high, glyphs, 0, signed=True), style="dim"),
    )
