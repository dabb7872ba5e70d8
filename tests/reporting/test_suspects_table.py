"""The table of suspect labels: what it holds, and that it fits 80 columns."""

import io

import numpy as np
import pytest
from rich.console import Console

from vitpe.celeba import ATTRIBUTES, EXCLUSIVE
from vitpe.inference.suspects import SuspectLabels
from vitpe.metrics.contradictions import find_contradictions
from vitpe.metrics.suspects import find_suspects
from vitpe.reporting.suspects_table import suspects_table


def lines(suspects: SuspectLabels, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=80, force_terminal=False).print(suspects_table(suspects))
    file.flush()
    return file.buffer.getvalue().decode(encoding).splitlines()


def found(probs, labels, attributes) -> SuspectLabels:
    contradictions = find_contradictions(labels, attributes, EXCLUSIVE)
    return SuspectLabels(labels.size, find_suspects(probs, labels, attributes), contradictions, ())


@pytest.fixture(scope="module")
def noisy() -> SuspectLabels:
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 40)) < 0.3).astype(np.uint8)
    probs = 1 / (1 + np.exp(-rng.normal(np.where(labels, 2, -2), 1.3)))
    return found(probs, labels, ATTRIBUTES)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_worst_ten_and_all_contradictions_in_80_columns(noisy, encoding):
    shown = lines(noisy, encoding)
    assert max(map(len, shown)) <= 80
    num_found = noisy.by_model.found.sum(axis=0)
    worst = np.argsort(-num_found, kind="stable")[:10]
    cells = [line.replace("|", " ").split() for line in shown]
    rows = [row for row in cells if row and row[0] in ATTRIBUTES and row[1] != "and"]
    assert [row[0] for row in rows] == [ATTRIBUTES[a] for a in worst]
    errors = noisy.by_model.num_errors()
    for row, a in zip(rows, worst, strict=True):
        assert row[1] == str(num_found[a])
        assert row[-2:] == [str(count) for count in errors[a]]
    assert f"and {(num_found > 0).sum() - 10} attributes with fewer" in shown
    whole = " ".join(shown)
    for (first, second), count in zip(noisy.contradictions.pairs, noisy.contradictions.counts(), strict=True):
        assert f"{first} and {second} {count}" in whole


def test_nothing_to_show():
    labels = np.array([[0, 1], [1, 0]] * 5)
    assert "the model contradicts none" in lines(found(np.where(labels, 0.9, 0.1), labels, ("Bald", "Bangs")))
    assert lines(found(np.where(labels, 0.9, 0.1), labels, ("Bald", "Bangs")))[-1] == "none"
    assert "exclude" in lines(found(np.where(labels, 0.9, 0.1), labels, ("a", "b")))[-1]
