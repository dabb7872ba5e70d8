"""Scores for people: rich renderables that choose their columns by the width they are given.

Nothing is printed here. Numbers are per cent, Brier score and calibration error aside; undefined is a dash.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.comparison import Comparison, PairedDifference
from vitpe.metrics.names import LOWER_IS_BETTER, METRICS
from vitpe.metrics.scores import LEVEL, Scores
from vitpe.reporting.metric_formats import FORMATS, SUMMARY, sort_key, sort_order
from vitpe.reporting.terminal import MAX_NAME, Flow, Glyphs, glyphs_for, interval_plot, signed_bar
from vitpe.text import printable

DEFAULT_METRIC = "accuracy"

_WEAK_STYLE, _WEAKEST_STYLE = "red", "bold red"
_LOSS_STYLE, _GAIN_STYLE = "red", "cyan"

_MEAN_WIDTH = 38
_NUM_WEAKEST = 5
_MIN_BAR, _MAX_BAR = 10, 32
_BETTER_STYLE, _WORSE_STYLE = "green", "red"
_NUMBER_WIDTH, _INTERVAL_WIDTH = 6, 14
_GAP = 2
_MIN_PLOT, _MAX_PLOT = 9, 61
_MEANS = tuple(metric for metric in METRICS if metric not in ("prevalence", "majority_accuracy", "lift"))


def eval_table(scores: Scores, info: EvalInfo, sort: str | None = None) -> RenderableType:
    """A row for each attribute with a bar for its lift, their mean, and a summary; the weakest are red.

    sort: as in `sort_order`, whose UsageError is raised here and not when the table is drawn.
    """
    return _EvalTable(_named(scores), info, sort_order(scores, sort), sort_key(sort))


def _named(scores: Scores) -> Scores:
    """With names that can be shown."""
    return replace(scores, attributes=tuple(map(printable, scores.attributes)))


def weakest(scores: Scores, metric: str) -> list[int]:
    """The numbers of the weakest attributes by `metric`, the weakest first: five, or a quarter if that is fewer."""
    values = -scores[metric] if metric in LOWER_IS_BETTER else scores[metric]
    defined = [int(a) for a in np.argsort(values, kind="stable") if not np.isnan(values[a])]
    return defined[: min(_NUM_WEAKEST, len(defined) // 4)]


@dataclass(frozen=True)
class _EvalTable:
    scores: Scores
    info: EvalInfo
    order: Sequence[int]
    key: str | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options)
        yield info_lines(self.info, self.scores.num_images, glyphs)
        yield Text()
        yield self._rows(options.max_width, glyphs)
        yield Text()
        yield self._means(options.max_width, glyphs)
        yield Text()
        yield self._notes(glyphs)

    def _rows(self, width: int, glyphs: Glyphs) -> Table:
        scores = self.scores
        name_width = _column_width(scores.attributes, "attribute")
        columns, bar_width = self._columns(width - name_width)
        table = ruled_table()
        table.add_column("attribute", Text("mean", style="bold"), width=name_width, overflow="ellipsis")
        for metric in columns:
            mean = "" if metric == "threshold" else FORMATS[metric].text(scores.means[metric].value, glyphs)
            style = "bold" if metric == self.key else ""
            heading = Text(FORMATS[metric].heading, style="reverse" if metric == self.key else "")
            table.add_column(heading, Text(mean, style="bold"), justify="right", width=_width(metric), style=style)
            if metric == "lift" and bar_width:
                table.add_column("", self._bar(scores.means["lift"].value, bar_width, glyphs), width=bar_width)
        grades = {metric: weakest(scores, metric) for metric in columns if metric != "threshold"}
        named = weakest(scores, self._weak_metric())
        for a in self.order:
            cells: list[RenderableType] = [Text(scores.attributes[a], style=_WEAKEST_STYLE if a in named else "")]
            for metric in columns:
                cells.append(self._cell(metric, a, a in grades.get(metric, ()), glyphs))
                if metric == "lift" and bar_width:
                    cells.append(self._bar(scores["lift"][a], bar_width, glyphs))
            table.add_row(*cells)
        return table

    def _columns(self, width: int) -> tuple[list[str], int]:
        """Which metrics fit into `width`, in METRICS' order, and the width left for the bar: 0 for none."""
        tuned = len(set(self.scores.thresholds.tolist())) > 1
        wanted = [metric for metric in FORMATS if metric != "threshold" or tuned or self.key == "threshold"]
        wanted.sort(key=lambda metric: metric != self.key)
        # The bar comes after the three columns that it needs to be understood.
        needed = sum(_GAP + _width(metric) for metric in ("accuracy", "lift", "majority_accuracy"))
        reserved = _GAP + _MIN_BAR if width >= needed + _GAP + _MIN_BAR else 0
        chosen = []
        left = width - reserved
        for metric in wanted:
            if left < _GAP + _width(metric):
                break
            chosen.append(metric)
            left -= _GAP + _width(metric)
        bar_width = min(_MIN_BAR + left, _MAX_BAR) if reserved and "lift" in chosen else 0
        return [metric for metric in ("threshold", *METRICS) if metric in chosen], bar_width

    def _cell(self, metric: str, a: int, is_weak: bool, glyphs: Glyphs) -> Text:
        value = float(self.scores.thresholds[a] if metric == "threshold" else self.scores[metric][a])
        if math.isnan(value):
            style = "dim"
        elif metric == "lift":
            style = _LOSS_STYLE if round(value, 3) < 0 else ""
        elif metric in ("prevalence", "majority_accuracy", "threshold"):
            style = "dim"
        else:
            style = _WEAK_STYLE if is_weak and FORMATS[metric].graded else ""
        return Text(FORMATS[metric].text(value, glyphs), style=style)

    def _bar(self, lift: float, width: int, glyphs: Glyphs) -> Text:
        # What the number beside the bar shows as 0.0 is 0 here too.
        lifts = np.round(self.scores["lift"], 3)
        low, high = min(float(np.nanmin(lifts)), 0.0), max(float(np.nanmax(lifts)), 0.0)
        return signed_bar(round(lift, 3), low, high, width, (_LOSS_STYLE, _GAIN_STYLE), glyphs)

    def _weak_metric(self) -> str:
        """By what the weakest are named: the column sorted by if it is graded, else ROC AUC, blind to prevalence."""
        return self.key if self.key is not None and self.key in FORMATS and FORMATS[self.key].graded else "roc_auc"

    def _means(self, width: int, glyphs: Glyphs) -> Table:
        """The means with their intervals, side by side in as many columns as fit."""
        num_columns = min(max(width // _MEAN_WIDTH, 1), 3)
        num_rows = math.ceil(len(SUMMARY) / num_columns)
        grid = Table.grid(padding=(0, 1, 0, 0))
        for column in range(num_columns):
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(justify="right", no_wrap=True)
            grid.add_column(style="dim", no_wrap=True, min_width=0 if column == num_columns - 1 else 18)
        for row in range(num_rows):
            cells: list[RenderableType] = []
            for metric, label in list(SUMMARY.items())[row::num_rows]:
                mean, shown = self.scores.means[metric], FORMATS[metric]
                value = Text(shown.text(mean.value, glyphs, 1), style="bold" if metric == "accuracy" else "")
                cells += [label, value, Text(shown.interval(mean.low, mean.high, glyphs))]
            grid.add_row(*cells)
        return grid

    def _notes(self, glyphs: Glyphs) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        metric = self._weak_metric()
        attributes, values = self.scores.attributes, self.scores[metric]
        weak = [f"{attributes[a]} {FORMATS[metric].text(values[a], glyphs)}" for a in weakest(self.scores, metric)]
        if weak:
            grid.add_row(f"weakest by {FORMATS[metric].heading}", Flow(tuple(weak), style=_WEAK_STYLE))
        for names, metrics in self._left_out().items():
            called = ", ".join(FORMATS[metric].name for metric in metrics)
            grid.add_row("left out", Text(f"{called} of {_listing(names, glyphs)}: undefined, not in the mean"))
        per_cent = "per cent, but for Brier and ECE"
        if self.scores.num_resamples:
            per_cent += f"; [95 % interval] over {self.scores.num_resamples:,} resamples of the images"
        grid.add_row("numbers", Text(per_cent, style="dim"))
        return grid

    def _left_out(self) -> dict[tuple[str, ...], list[str]]:
        groups: dict[tuple[str, ...], list[str]] = {}
        for metric in METRICS:
            if names := self.scores.undefined(metric):
                groups.setdefault(names, []).append(metric)
        return groups


def _width(metric: str) -> int:
    return max(5, cell_len(FORMATS[metric].heading))


def _listing(names: Sequence[str], glyphs: Glyphs) -> str:
    more = f", {glyphs.ellipsis}" if len(names) > _NUM_WEAKEST else ""
    return f"{len(names)} attribute{'s' if len(names) > 1 else ''} ({', '.join(names[:_NUM_WEAKEST])}{more})"


def compare_table(
    comparison: Comparison, first: EvalInfo, second: EvalInfo, metric: str = DEFAULT_METRIC, sort: str | None = None
) -> RenderableType:
    """A row for each attribute with both values of `metric`, their difference and its interval; then the means of all.

    metric: a name in METRICS or a short form. sort: "attribute", "difference" (the largest gain first) or a column of
    the second checkpoint as in `sort_order`, "-" in front turns it round; None leaves the attributes' order.
    Raises UsageError for a metric or column that is not there.
    """
    shown = sort_key(metric)
    if shown not in METRICS:
        shown = DEFAULT_METRIC
    if sort is not None and sort.removeprefix("-") == "difference":
        losses = -_sign(shown) * (-1 if sort.startswith("-") else 1) * comparison.per_attribute[shown].value
        order = [int(a) for a in np.argsort(losses, kind="stable")]
    else:
        order = sort_order(comparison.second, sort)
    comparison = replace(comparison, first=_named(comparison.first), second=_named(comparison.second))
    return _CompareTable(comparison, first, second, shown, order)


@dataclass(frozen=True)
class _CompareTable:
    comparison: Comparison
    first: EvalInfo
    second: EvalInfo
    metric: str
    order: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options)
        num_images = self.comparison.first.num_images
        for letter, info in (("A", self.first), ("B", self.second)):
            yield Text.assemble((f"{letter}  ", "bold cyan"), info_lines(info, num_images, glyphs))
        yield Text()
        yield self._rows(options.max_width, glyphs)
        yield Text()
        yield self._means(glyphs)
        yield Text()
        yield Text(self._note(glyphs), style="dim")

    def _rows(self, width: int, glyphs: Glyphs) -> Table:
        first, second, difference = self.comparison.first, self.comparison.second, self._difference
        mean = self.comparison.means[self.metric]
        name_width = _column_width(first.attributes, FORMATS[self.metric].name)
        left = width - name_width - 3 * (_GAP + _NUMBER_WIDTH) - _GAP - 1
        with_interval = left >= _GAP + _INTERVAL_WIDTH
        left -= (_GAP + _INTERVAL_WIDTH) if with_interval else 0
        plot_width = min(left - _GAP, _MAX_PLOT) if left >= _GAP + _MIN_PLOT else 0
        plot_width -= 1 - plot_width % 2 if plot_width else 0  # odd, so that zero has a cell of its own
        ends = np.abs(np.stack([difference.low, difference.high, difference.value]))
        reach = float(np.nanmax(ends)) if np.isfinite(ends).any() else 0.0

        table = ruled_table()
        table.add_column(FORMATS[self.metric].name, "mean", width=name_width, overflow="ellipsis")
        for title in ("A", "B", "B-A"):
            table.add_column(title, justify="right", width=_NUMBER_WIDTH)
        table.add_column("", width=1)
        if with_interval:
            table.add_column("95 % interval", justify="right", width=_INTERVAL_WIDTH)
        if plot_width:
            table.add_column(self._axis(reach, plot_width, glyphs), width=plot_width)

        def cells(before: float, after: float, change: PairedDifference, at: int | tuple[()]) -> list[RenderableType]:
            style, mark = self._verdict(self.metric, change, at, glyphs)
            value, low, high = float(change.value[at]), float(change.low[at]), float(change.high[at])
            shown = FORMATS[self.metric]
            row = [
                Text(shown.text(before, glyphs)),
                Text(shown.text(after, glyphs)),
                Text(shown.text(value, glyphs, signed=True), style=style),
                Text(mark, style=style),
            ]
            if with_interval:
                row.append(Text(shown.interval(low, high, glyphs, 0, signed=True), style="dim"))
            if plot_width:
                row.append(interval_plot(value, low, high, reach, plot_width, style or "dim", glyphs))
            return list(row)

        for a in self.order:
            values = float(first[self.metric][a]), float(second[self.metric][a])
            table.add_row(Text(first.attributes[a]), *cells(*values, difference, a))
        totals = cells(*self.comparison.both(self.metric), mean, ())
        for column, footer in zip(table.columns[1:], totals, strict=True):
            column.footer = footer
        return table

    @property
    def _difference(self) -> PairedDifference:
        return self.comparison.per_attribute[self.metric]

    def _axis(self, reach: float, width: int, glyphs: Glyphs) -> Text:
        shown = FORMATS[self.metric]
        left, right = shown.text(-reach, glyphs, signed=True), shown.text(reach, glyphs, signed=True)
        return Text(f"{left}{'0'.center(width - len(left) - len(right))}{right}", style="dim not bold")

    def _means(self, glyphs: Glyphs) -> Table:
        table = ruled_table()
        table.show_footer = False
        table.add_column("mean of", no_wrap=True)
        for title in ("A", "B", "B-A", "95 % interval"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("B is", no_wrap=True)
        for metric in _MEANS:
            change, shown = self.comparison.means[metric], FORMATS[metric]
            before, after = self.comparison.both(metric)
            style, mark = self._verdict(metric, change, (), glyphs)
            if mark:
                verdict = f"{mark} {'better' if style == _BETTER_STYLE else 'worse'}"
            else:
                same = change.low == change.high == 0
                verdict = "the same" if same else "unclear" if np.isfinite(change.low) else ""
            table.add_row(
                shown.name,
                shown.text(before, glyphs, 1),
                shown.text(after, glyphs, 1),
                Text(shown.text(float(change.value), glyphs, 1, signed=True), style=style),
                Text(shown.interval(float(change.low), float(change.high), glyphs, signed=True), style="dim"),
                Text(verdict, style=style or "dim"),
            )
        return table

    def _verdict(self, metric: str, change: PairedDifference, at: int | tuple[()], glyphs: Glyphs) -> tuple[str, str]:
        """Style and mark of a difference that exceeds its interval; both empty otherwise."""
        if not change.exceeds[at]:
            return "", ""
        if _sign(metric) * change.value[at] > 0:
            return _BETTER_STYLE, glyphs.better
        return _WORSE_STYLE, glyphs.worse

    def _note(self, glyphs: Glyphs) -> str:
        num_attributes = len(self.comparison.first.attributes)
        by_chance = (1 - LEVEL) * num_attributes
        return (
            f"{glyphs.better} {glyphs.worse} mark a difference whose 95 % interval over "
            f"{self.comparison.num_resamples:,} resamples of the images does not hold 0. Chance alone marks about "
            f"{by_chance:.0f} of {num_attributes} attributes."
        )


def _sign(metric: str) -> int:
    return -1 if metric in LOWER_IS_BETTER else 1


def info_lines(info: EvalInfo, num_images: int, glyphs: Glyphs) -> Text:
    """Two lines: which checkpoint, and on which images it was scored how."""
    images = "image" if num_images == 1 else "images"
    parts = [info.images, f"{num_images:,} {images}", f"thresholds {info.thresholds}"]
    if info.calibration is not None:
        parts.append(f"calibration {info.calibration}")
    step = "" if info.step is None else f"  step {info.step:,}"
    how = printable(f" {glyphs.dot} ".join(parts))
    return Text.assemble((printable(info.checkpoint), "bold"), (step, "dim"), "\n", (how, "dim"))


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


def _column_width(names: Sequence[str], heading: str) -> int:
    """Cells for a column of names, MAX_NAME at most."""
    return min(max(cell_len(name) for name in (heading, *names)), MAX_NAME)
