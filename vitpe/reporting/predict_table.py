"""What is seen in an image, for people: all attributes of one, or two lines for each of many."""

import math
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vitpe.inference.predictions import Prediction
from vitpe.reporting.terminal import MAX_NAME, Flow, glyphs_for, thin_bar
from vitpe.text import printable

_PRESENT_STYLE, _ABSENT_STYLE, _ERROR_STYLE = "cyan", "dim", "red"
_PERCENT_WIDTH, _GAP, _BETWEEN = 4, 1, 4
_MIN_BAR, _MAX_BAR = 8, 30
_FEW = 12  # so many rows are not worth a second column


def predict_table(prediction: Prediction) -> RenderableType:
    """All listed attributes with bars for their probabilities, present ones first, the most probable first of each.

    Runs down two columns where the width allows it. A file that could not be read gives its error.
    """
    return _without_answer(prediction) or _PredictionTable(prediction)


def predict_summary(prediction: Prediction) -> RenderableType:
    """Two lines: the file, and the attributes that are present with their probabilities; for many files in a row."""
    return _without_answer(prediction) or _PredictionSummary(prediction)


def _file_line(prediction: Prediction, more: str = "") -> Text:
    """The file's name in one piece, however long: it may be copied, or searched for; then which of its faces it is."""
    face = prediction.face
    if face is not None and face.number is not None and face.count > 1:
        more = f"  face {face.number} of {face.count}{more}"
    return Text.assemble((printable(prediction.file), "bold"), (more, "dim"), no_wrap=True, overflow="ignore")


def _without_answer(prediction: Prediction) -> RenderableType | None:
    """The file and why there is no answer, None where there is one."""
    if prediction.no_answer is None:
        return None
    reason = Text(printable(prediction.no_answer), style=_ABSENT_STYLE if prediction.error is None else _ERROR_STYLE)
    return Group(_file_line(prediction), Padding(reason, (0, 0, 0, 2)))


def percent(prob: float) -> str:
    """Whole per cent; never 0 or 100, of which no model is sure, and so that no number stands below a smaller one."""
    if prob >= 0.995:
        return ">99%"
    return "<1%" if prob < 0.005 else f"{100 * prob:.0f}%"


@dataclass(frozen=True)
class _PredictionSummary:
    prediction: Prediction

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options)
        yield _file_line(self.prediction)
        probs = self.prediction.probs
        items = tuple(f"{printable(name)} {percent(probs[name])}" for name in self.prediction.present)
        yield Padding(Flow(items or (glyphs.dash,), f" {glyphs.dot} "), (0, 0, 0, 2))


@dataclass(frozen=True)
class _PredictionTable:
    prediction: Prediction

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        probs, present = self.prediction.probs, self.prediction.present
        yield _file_line(self.prediction, f"  {len(present)} of {len(probs)} present")
        if probs:
            yield self._columns(options)

    def _columns(self, options: ConsoleOptions) -> Table:
        probs, present = self.prediction.probs, set(self.prediction.present)
        names = sorted(probs, key=lambda name: (name not in present, -probs[name]))
        name_width = min(max(cell_len(printable(name)) for name in names), MAX_NAME)
        fixed = name_width + 2 * _GAP + _PERCENT_WIDTH
        fits_two = options.max_width >= 2 * (fixed + _MIN_BAR) + _BETWEEN
        num_columns = 2 if fits_two and len(names) > _FEW else 1
        room = (options.max_width - _BETWEEN * (num_columns - 1)) // num_columns - fixed
        bar_width = max(min(room, _MAX_BAR), 0)
        num_rows = math.ceil(len(names) / num_columns)

        table = Table.grid(padding=(0, _GAP, 0, 0))
        for column in range(num_columns):
            if column:
                table.add_column(width=_BETWEEN - _GAP)
            table.add_column(width=name_width, no_wrap=True, overflow="ellipsis")
            table.add_column(width=bar_width)
            table.add_column(width=_PERCENT_WIDTH, justify="right", no_wrap=True)
        glyphs = glyphs_for(options)
        for row in range(num_rows):
            cells: list[Text] = []
            for name in names[row::num_rows]:
                style = _PRESENT_STYLE if name in present else _ABSENT_STYLE
                cells += [Text()] if cells else []
                cells += [
                    Text(printable(name), style="bold" if name in present else _ABSENT_STYLE),
                    Text(thin_bar(probs[name], bar_width, glyphs), style=style),
                    Text(percent(probs[name]), style="bold" if name in present else _ABSENT_STYLE),
                ]
            table.add_row(*cells)
        return table
