"""Values over numbers, as a chart on a sheet: lines at round values, curves with their intervals, dots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vitpe.viz.colours import FAINT, MUTED
from vitpe.viz.maps import ticks
from vitpe.viz.sheet import Sheet, text_width
from vitpe.viz.similarity import Floats

AXIS: Final = 46
"""Pixels on the left for the numbers of the lines."""
_INSET: Final = 14
_LEGEND: Final = 11.5


@dataclass(frozen=True)
class Chart:
    """A chart whose top left corner is (x, y), the title's not counted, in pixels.

    across, up: the lowest and the highest number from left to right, and from bottom to top.
    """

    sheet: Sheet
    x: float
    y: float
    width: float
    height: float
    across: tuple[float, float]
    up: tuple[float, float]

    def place(self, across: float, up: float) -> tuple[float, float]:
        """Numbers → pixels."""
        shares = [
            (value - low) / (high - low) if high > low else 0.0
            for value, (low, high) in ((across, self.across), (up, self.up))
        ]
        width = self.width - AXIS - 2 * _INSET
        return self.x + AXIS + _INSET + shares[0] * width, self.y + self.height * (1 - shares[1])

    def title(self, title: str, below: str) -> None:
        """Above the chart."""
        self.sheet.text(self.x, self.y - 34, title, 14.5, weight="bold")
        self.sheet.text(self.x, self.y - 16, below, 12, MUTED)

    def lines(self, factor: float = 1) -> None:
        """At round values of `factor` times the numbers."""
        for value, label in ticks(factor * self.up[0], factor * self.up[1], 5):
            y = self.place(self.across[0], value / factor)[1]
            self.sheet.line([self.x + AXIS, self.x + self.width], [y, y], FAINT, 0.8)
            self.sheet.text(self.x + AXIS - 8, y + 4, label, 10.5, MUTED, align="right")

    def names(self, names: Sequence[tuple[float, str]]) -> None:
        """Below the chart, at these numbers; of many, some."""
        for across, name in names[:: -(-len(names) // 14)]:
            x, _ = self.place(across, self.up[0])
            self.sheet.text(x, self.y + self.height + 18, name, 10.5, MUTED, align="center")

    def level(self, value: float, text: str = "") -> None:
        """A dashed line from side to side."""
        y = self.place(self.across[0], value)[1]
        self.sheet.line([self.x + AXIS, self.x + self.width], [y, y], MUTED, 1.2, dashes=(3, 3))
        self.sheet.text(self.x + self.width, y - 5, text, 10.5, MUTED, align="right")

    def curve(
        self, across: Sequence[float], estimates: tuple[Floats, Floats, Floats], colour: str, dashed: bool = False
    ) -> None:
        """A line through values, each with the line from its lowest to its highest; estimates: these three."""
        points = [self.place(*point) for point in zip(across, estimates[0].tolist(), strict=True)]
        self.sheet.line([x for x, _ in points], [y for _, y in points], colour, 2, **_style(dashed))
        for at, (x, y), low, high in zip(across, points, *(end.tolist() for end in estimates[1:]), strict=True):
            self.sheet.line([x, x], [self.place(at, end)[1] for end in (low, high)], colour, 1.4)
            self.sheet.ellipse(x, y, 6, 6, colour, 1, fill=colour)

    def legend(self, curves: Mapping[str, tuple[str, bool]]) -> None:
        """Below the names: name → colour, and whether it is dashed; in several lines where one is too short."""
        left = self.x + AXIS
        x, y = left, self.y + self.height + 42
        for name, (colour, dashed) in curves.items():
            width = 28 + text_width(name, _LEGEND)
            if x > left and x + width > self.x + self.width:
                x, y = left, y + 18
            self.sheet.line([x, x + 22], [y - 4, y - 4], colour, 2, **_style(dashed))
            self.sheet.text(x + 28, y, name, _LEGEND)
            x += width + 18


def _style(dashed: bool) -> dict[str, tuple[int, int]]:
    return {"dashes": (2, 2)} if dashed else {}
