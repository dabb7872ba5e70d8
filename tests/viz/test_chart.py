"""A chart shows each number where it belongs."""

import numpy as np
import pytest

from vitpe.viz.chart import AXIS, Chart
from vitpe.viz.colours import rgb
from vitpe.viz.sheet import Sheet

COLOUR = "#d02010"


def chart(**changes) -> Chart:
    values = {"x": 20, "y": 40, "width": 300, "height": 200, "across": (10, 30), "up": (-1, 1)} | changes
    return Chart(Sheet(400, 300), **values)


def reds(pixels: np.ndarray) -> np.ndarray:
    return (pixels == rgb(COLOUR)).all(axis=2)


def test_numbers_become_pixels_by_hand():
    drawn = chart()
    assert drawn.place(10, -1) == (20 + AXIS + 14, 240)
    assert drawn.place(30, 1) == (320 - 14, 40)
    assert drawn.place(20, 0) == pytest.approx(((20 + AXIS + 320) / 2, 140))
    assert chart(across=(5, 5)).place(5, 1) == (20 + AXIS + 14, 40)


def test_a_curve_goes_through_its_values_and_its_intervals():
    drawn = chart()
    values = np.array([-0.5, 0.5, 0.0])
    drawn.curve([10, 20, 30], (values, values - 0.2, values + 0.3), COLOUR)
    found = reds(drawn.sheet.pixels())
    for across, value in zip((10, 20, 30), values, strict=True):
        for height in (value, value - 0.17, value + 0.27):
            x, y = (round(number) for number in drawn.place(across, float(height)))
            assert found[y - 1 : y + 2, x - 2 : x + 3].any(), (across, height)
        x, y = (round(number) for number in drawn.place(across, float(value) + 0.4))
        assert not found[y, x - 2 : x + 3].any()


def test_a_legend_that_is_too_long_has_two_lines():
    drawn = chart(width=200)
    drawn.legend({"the first": (COLOUR, False), "another name that is long": (COLOUR, True)})
    rows = np.flatnonzero(reds(drawn.sheet.pixels()).any(axis=1))
    assert rows.max() - rows.min() >= 17
