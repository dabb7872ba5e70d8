"""Scores of groups for people: each group's rates, then the gaps between groups. Numbers are per cent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.groups import GAPS, GroupScores
from vitpe.metrics.scores import Mean, Scores
from vitpe.reporting.group_records import group_order
from vitpe.reporting.metric_formats import MetricFormat
from vitpe.reporting.tables import info_lines, ruled_table
from vitpe.reporting.terminal import Glyphs, glyphs_for
from vitpe.text import printable

_PERCENT: Final = MetricFormat("", "")
_HEADINGS: Final = {
    "accuracy": "acc",
    "true_positive_rate": "TPR",
    "false_positive_rate": "FPR",
    "prevalence": "prev",
    "average_precision": "AP",
    "positive_rate": "pos",
}
"""In order of importance: a narrow table leaves out the last ones first."""
_GAP_HEADINGS: Final = {
    "accuracy": "acc",
    "equal_opportunity": "TPR",
    "equalized_odds": "odds",
    "demographic_parity": "pos",
}
_SHOWN: Final = ("prevalence", "accuracy", "true_positive_rate", "false_positive_rate", "positive_rate")
_NUMBER, _COUNT, _INTERVAL, _NAMES, _BETWEEN = 5, 7, 13, 28, 2
_WORST_STYLE = "red"


def group_table(groups: GroupScores, scores: Scores, info: EvalInfo, sort: str | None = None) -> RenderableType:
    """sort: as in `group_order`, whose UsageError is raised here and not when the table is drawn."""
    return _GroupTable(groups, info, group_order(groups, scores, sort))


@dataclass(frozen=True)
class _GroupTable:
    groups: GroupScores
    info: EvalInfo
    order: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options)
        yield info_lines(self.info, int(self.groups.counts.sum()), glyphs)
        yield Text()
        yield self._rates(options.max_width, glyphs)
        yield Text()
        yield self._gaps(options.max_width, glyphs)
        yield Text()
        yield self._notes(glyphs)

    def _name(self, group: int, glyphs: Glyphs) -> str:
        return printable(self.groups.groups[group]) if group >= 0 else glyphs.dash

    def _rates(self, width: int, glyphs: Glyphs) -> Table:
        """A row of all images for each attribute, and below it one of each group."""
        groups = self.groups
        names = [*map(printable, groups.attributes), *(f"  {self._name(g, glyphs)}" for g in range(len(groups.groups)))]
        name_width = min(max(map(cell_len, ("attribute", *names))), _NAMES, max(width - 18, 10))
        left = width - name_width - _BETWEEN - _COUNT
        fitting = list(_HEADINGS)[: max(left // (_BETWEEN + _NUMBER), 1)]
        columns = [metric for metric in (*_SHOWN, "average_precision") if metric in fitting]
        table = ruled_table()
        table.show_footer = False
        table.add_column("attribute", width=name_width, overflow="fold")
        table.add_column("n", justify="right", width=_COUNT)
        for metric in columns:
            table.add_column(_HEADINGS[metric], justify="right", width=_NUMBER)
        for a in self.order:
            whole = [_PERCENT.text(groups.whole[metric][a], glyphs) for metric in columns]
            cells = [printable(groups.attributes[a]), f"{groups.counts.sum():,}", *whole]
            table.add_row(*(Text(cell, style="bold") for cell in cells))
            for g, count in enumerate(groups.counts):
                style = _WORST_STYLE if g == groups.worst[a] else "" if groups.ranked["accuracy"][g, a] else "dim"
                row = [Text(f"  {self._name(g, glyphs)}", style=style), Text(f"{count:,}", style=style)]
                for metric in columns:
                    ranked = groups.ranked.get(metric, groups.ranked["accuracy"])[g, a]
                    value = Text(_PERCENT.text(groups[metric][g, a], glyphs), style=style if ranked else "dim")
                    row.append(value)
                table.add_row(*row)
        return table

    def _gaps(self, width: int, glyphs: Glyphs) -> Table:
        """A row for each attribute: its worst group, and the gaps, with as many intervals as fit."""
        groups = self.groups
        one = _BETWEEN + _NUMBER
        names = max(map(cell_len, ("mean gap", *map(printable, groups.attributes))))
        worst = max(cell_len(self._worst(a, glyphs)) for a in range(len(groups.attributes)))
        least = min(names, 16) + _BETWEEN + max(min(worst, 16), 9)
        with_interval: list[str] = []
        left = width - len(GAPS) * one
        for gap in GAPS:
            if left - _BETWEEN - _INTERVAL < least:
                break
            with_interval.append(gap)
            left -= _BETWEEN + _INTERVAL
        shown = [gap for gap in GAPS if left >= least or gap == "accuracy"]
        left += one * (len(GAPS) - len(shown))
        worst_width = max(min(worst, left - _BETWEEN - min(names, 16)), 9)
        name_width = max(min(names, left - _BETWEEN - worst_width), 8)
        table = ruled_table()
        table.add_column("gap", "mean gap", width=name_width, overflow="fold")
        table.add_column("worst (n)", width=worst_width, overflow="fold")
        for gap in shown:
            mean = groups.mean_gaps[gap]
            table.add_column(_GAP_HEADINGS[gap], _PERCENT.text(mean.value, glyphs), justify="right", width=_NUMBER)
            if gap in with_interval:
                table.add_column(
                    "95 % interval",
                    Text(_interval(mean.low, mean.high, glyphs), style="dim"),
                    justify="right",
                    width=_INTERVAL,
                )
        for a in self.order:
            cells = [Text(printable(groups.attributes[a])), Text(self._worst(a, glyphs))]
            for gap in shown:
                found = groups.gaps[gap]
                low, high = float(found.low[a]), float(found.high[a])
                cells.append(Text(_PERCENT.text(found.value[a], glyphs), style=_WORST_STYLE if low > 0 else ""))
                if gap in with_interval:
                    cells.append(Text(_interval(low, high, glyphs), style="dim"))
            table.add_row(*cells)
        return table

    def _worst(self, a: int, glyphs: Glyphs) -> str:
        worst = int(self.groups.worst[a])
        return glyphs.dash if worst < 0 else f"{self._name(worst, glyphs)} ({self.groups.counts[worst]:,})"

    def _notes(self, glyphs: Glyphs) -> Table:
        groups = self.groups
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        grid.add_row("mean accuracy", f"{_mean(groups.mean_accuracy, glyphs)} plain: each image counts alike")
        if groups.mean_reweighted is not None and groups.train_shares is not None:
            pairs = zip(range(len(groups.groups)), groups.train_shares.tolist(), strict=True)
            shares = ", ".join(f"{self._name(g, glyphs)} {_PERCENT.text(share, glyphs)}" for g, share in pairs)
            grid.add_row("", f"{_mean(groups.mean_reweighted, glyphs)} reweighted by train's group shares: {shares}")
        accuracies = [groups["accuracy"][w, a] if w >= 0 else math.nan for a, w in enumerate(groups.worst)]
        if not np.isnan(accuracies).all():
            a = int(np.nanargmin(accuracies))
            worst = groups.worst[a]
            ends = _interval(float(groups.accuracy_low[worst, a]), float(groups.accuracy_high[worst, a]), glyphs)
            value = f"{_PERCENT.text(accuracies[a], glyphs)} {ends}".strip()
            grid.add_row("worst of all", f"{printable(groups.attributes[a])} in {self._worst(a, glyphs)}: {value}")
        if groups.num_outside:
            grid.add_row("left out", f"{groups.num_outside:,} images are in none of these groups")
        undefined = {name: mean.num_undefined for name, mean in groups.mean_gaps.items() if mean.num_undefined}
        if undefined:
            listed = ", ".join(f"{count} of {_GAP_HEADINGS[name]}" for name, count in undefined.items())
            own = "; --by's own are not in the means" if set(groups.grouping.by) & set(groups.attributes) else ""
            grid.add_row("undefined", f"gaps that the mean leaves out: {listed}{own}")
        grid.add_row("ranked", f"rates over {groups.min_count} images or more; others are shown, dim, and not ranked")
        grid.add_row(
            "gaps",
            Text(
                "highest minus lowest ranked group: accuracy, TPR (equal opportunity), the larger of TPR's and FPR's "
                "(odds: equalised odds), share answered present (pos: demographic parity)",
                style="dim",
            ),
        )
        if groups.num_resamples:
            grid.add_row(
                "intervals",
                Text(
                    f"95 %, {groups.num_resamples:,} resamples of the images; the two groups stay those of the full "
                    "sample, and that they were chosen as extremes is not in the interval",
                    style="dim",
                ),
            )
        return grid


def _mean(mean: Mean, glyphs: Glyphs) -> str:
    return f"{_PERCENT.text(mean.value, glyphs, 1)} {_PERCENT.interval(mean.low, mean.high, glyphs)}".strip()


def _interval(low: float, high: float, glyphs: Glyphs) -> str:
    return _PERCENT.interval(low, high, glyphs, 0)
