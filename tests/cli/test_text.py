"""Text that others wrote, on a terminal: a name can neither control it nor hide, wherever it is shown."""

import io
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from rich.table import Table
from rich.text import Text

from tests.helpers.answers import INFO
from vitpe.cli.console import show_error, show_note, show_summary, show_table
from vitpe.cli.progress import Counters, TrainReporter
from vitpe.cli.results import write_result
from vitpe.errors import VitpeError
from vitpe.inference.predictions import Prediction
from vitpe.metrics.scores import score
from vitpe.reporting.predict_table import predict_summary, predict_table
from vitpe.reporting.report import report_png
from vitpe.reporting.tables import eval_table
from vitpe.text import printable, printable_lines

HOSTILE = "[red]a[/x]:smile:\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2066\u200b\u2028\x7f\r\n\x08\udcffz"
SHOWN = r"[red]a[/x]:smile:\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2066\u200b\u2028\x7f\r\n\x08\xffz"


class Terminal(io.TextIOWrapper):
    """A terminal's end of a pipe: remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="surrogateescape")

    def isatty(self) -> bool:
        return True

    def sent(self) -> str:
        """Without styles and the cursor's hiding, which are ours."""
        self.flush()
        return re.sub(r"\x1b\[([\d;]*m|\?25[lh])", "", self.buffer.getvalue().decode("utf-8", "surrogateescape"))


@contextmanager
def terminal():
    """While stdout and stderr are a wide terminal."""
    end = Terminal()
    with (
        mock.patch.multiple(sys, stdout=end, stderr=end),
        mock.patch.dict(os.environ, COLUMNS="600", TERM="xterm"),
    ):
        yield end


def _rows(*cells):
    table = Table("name", title=cells[0], caption=cells[0])
    for cell in cells:
        table.add_row(cell)
    return table


def _prediction(**changes):
    return replace(Prediction(HOSTILE, {HOSTILE: 0.9, "b": 0.1}, (HOSTILE,)), **changes)


WAYS = {
    "error": lambda: show_error(VitpeError(HOSTILE, HOSTILE)),
    "note": lambda: show_note(HOSTILE),
    "note of training": lambda: TrainReporter().note(HOSTILE),
    "note beside bars": lambda: Counters().note(HOSTILE),
    "summary": lambda: show_summary({}, [HOSTILE]),
    "cells, title and caption": lambda: show_table(_rows(HOSTILE)),
    "image's table": lambda: show_table(predict_table(_prediction())),
    "image's lines": lambda: show_table(predict_summary(_prediction())),
    "image's error": lambda: show_table(predict_table(_prediction(error=HOSTILE, probs={}, present=()))),
}


@pytest.mark.parametrize("show", WAYS.values(), ids=WAYS)
def test_a_name_is_shown_as_it_is_and_does_nothing(show):
    with terminal() as end:
        show()
    sent = end.sent()
    assert printable_lines(sent) == sent
    assert SHOWN in sent or SHOWN[:20] in sent


def test_tables_of_scores_keep_their_columns_whatever_the_names(scores):
    hostile = replace(scores, attributes=(f"\x1b[2J\u202e{scores.attributes[0]}", *scores.attributes[1:]))
    subject = replace(INFO, checkpoint=HOSTILE, thresholds=HOSTILE)
    with terminal() as end:
        show_table(eval_table(hostile, subject))
    sent = end.sent()
    assert printable_lines(sent) == sent
    assert SHOWN in sent
    rule, row = (next(line for line in sent.splitlines() if line.startswith(start)) for start in ("────", r"\x1b"))
    assert len(row.rstrip()) <= len(rule)


def test_what_nobody_escaped_is_escaped_when_it_is_written():
    with terminal() as end:
        show_table(Text(f"a{HOSTILE}"))
    sent = end.sent()
    assert printable_lines(sent) == sent


def test_results_for_programs_are_escaped_on_a_terminal_only():
    with terminal() as end:
        write_result(f"a,{HOSTILE.replace(chr(10), '')}\nb\n")
    assert end.sent().splitlines() == [f"a,{SHOWN.replace(chr(92) + 'n', '')}", "b"]
    piped = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with mock.patch.object(sys, "stdout", piped):
        write_result(f"{HOSTILE}\n")
    assert piped.buffer.getvalue().decode("utf-8", "surrogateescape") == f"{HOSTILE}\n"


def test_printable_leaves_text_and_escapes_the_rest():
    assert printable("été ☃ 顔 [bold].jpg") == "été ☃ 顔 [bold].jpg"
    assert printable("a\nb\x1b[31m\udcff\u202e") == r"a\nb\x1b[31m\xff\u202e"
    assert printable_lines("a\x00\nb\u2028") == "a\\x00\nb\\u2028"


def test_pictures_show_names_as_they_are():
    probs, labels = np.tile([0.2, 0.8], (30, 1)), np.tile([0, 1, 1], (2, 10)).T
    pictures = []
    for names in (("$\\frac{1$", HOSTILE[12:]), ("$\\frac{1$", SHOWN[12:])):
        scored = score(probs, labels, names, num_resamples=0)
        pictures.append(report_png(probs, labels, scored, replace(INFO, checkpoint=names[1], thresholds="$x_")))
    assert pictures[0] == pictures[1]
