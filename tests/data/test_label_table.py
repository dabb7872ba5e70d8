"""Plain tables read as arrays of bytes are what reading them row by row gives; anything else is left to that."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitpe.data.label_table import Values, read_plain_rows


def row_by_row(text: str, separator: str | None) -> tuple[list[str], list[list[int]]] | None:
    names, labels = [], []
    values = Values()
    for line in text.splitlines():
        fields = line.split(separator)
        if fields and any(fields):
            names.append(fields[0])
            labels.append([int(values[field] == 1) for field in fields[1:]])
    return names, labels


names = st.text(st.sampled_from("abc012_-."), min_size=1, max_size=8)
cells = st.sampled_from(["1", "-1", "0", " 1"])
odd = st.sampled_from(["2", "", "+1", "1.0", "-0", "--1", "11", "x", "é", '"1"', "- 1", "-11", "\t1"])


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(names, st.lists(cells, min_size=3, max_size=3)), min_size=1, max_size=9), data=st.data())
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_a_plain_table(suffix, rows, data, tmp_path_factory):
    separator = "," if suffix == ".csv" else " "
    rows = [(name, [cell.strip() if suffix == ".csv" else cell for cell in row]) for name, row in rows]
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join(separator.join([name, *row]) for name, row in rows) + data.draw(st.sampled_from(["", end, end * 2]))
    file = tmp_path_factory.mktemp("t") / f"table{suffix}"
    file.write_bytes(f"2\na b c\n{text}".encode())
    found = read_plain_rows(file, 2, 3)
    assert found is not None
    expected = row_by_row(text, "," if suffix == ".csv" else None)
    assert (found[0], found[1].tolist()) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.one_of(cells, odd), max_size=4), min_size=1, max_size=6), st.sampled_from([".txt", ".csv"]))
def test_whatever_it_takes_it_takes_as_row_by_row(rows, suffix):
    """It may give up; where it does not, it is right."""
    import tempfile

    separator = "," if suffix == ".csv" else " "
    text = "".join(separator.join([f"n{number}", *row]) + "\n" for number, row in enumerate(rows))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"t{suffix}"
        file.write_bytes(f"a b c\n{text}".encode())
        found = read_plain_rows(file, 1, 3)
    if found is not None:
        expected = row_by_row(text, "," if suffix == ".csv" else None)
        assert (found[0], found[1].tolist()) == expected
        assert not any(cell in ("2", "x", "11", "--1", "-11", "é") for row in rows for cell in row)


def test_blocks_end_between_rows(monkeypatch, tmp_path):
    monkeypatch.setattr("vitpe.data.label_table._BLOCK_BYTES", 10)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (50, 5))
    file = tmp_path / "a.txt"
    rows = [f"{n:06d}.jpg " + " ".join(f"{2 * v - 1:2}" for v in row) for n, row in enumerate(labels)]
    file.write_text("\n".join(["header", *rows]))
    found = read_plain_rows(file, 1, 5)
    assert found is not None
    np.testing.assert_array_equal(found[1], labels)
    assert found[0][-1] == "000049.jpg"
