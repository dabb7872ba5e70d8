"""Predictions as text for programs: JSON, JSON lines and CSV; what scores share with them. No terminals here.

Every JSON object carries "schema": 1. Fields may be added under that number; a field that is there keeps its name,
type and meaning. What is undefined is null in JSON and an empty cell in CSV. All lines end in "\\n".
"""

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitpe.inference.predictions import FoundFace, Prediction

SCHEMA = 1
_MAP_DIGITS = 6
_FIXED_COLUMNS = ("file", "present", "error")
_FACE_COLUMNS = ("face_found", "face_number", "face_count", "face_box", "face_eyes")


def prediction_json(prediction: Prediction) -> str:
    """A prediction as one line of JSON, without its end of line.

    {"schema": 1, "file": "face.jpg", "probs": {"Smiling": 0.97, …}, "present": ["Smiling", …]}, or where the file
    could not be read {"schema": 1, "file": "bad.jpg", "error": "…"}. Probabilities have 6 decimals. With maps also
    {"maps": {"method": "occlusion", "values": {"Smiling": [[0.01, …], …], …}}}: a list for each row of patches.
    Where faces were looked for also {"face": {"found": true, "number": 1, "count": 2, "box": [x, y, width, height],
    "eyes": [[x, y], [x, y]]}}, in pixels of the photo, number 1 being the largest of the count that were found; where
    there is none, found is false, count 0, the rest null, probs {} and present [].
    """
    record: dict[str, Any] = {"schema": SCHEMA, "file": prediction.file}
    if prediction.error is not None:
        record["error"] = prediction.error
    else:
        record |= {"probs": dict(prediction.probs), "present": list(prediction.present)}
        if (maps := prediction.maps) is not None:
            values = {name: value.round(_MAP_DIGITS).tolist() for name, value in maps.values.items()}
            record["maps"] = {"method": maps.method, "values": values}
        if (face := prediction.face) is not None:
            record["face"] = {
                "found": face.found,
                "number": face.number,
                "count": face.count,
                "box": face.box,
                "eyes": face.eyes,
            }
    return dumps(record, None)


def prediction_lines(
    kind: str, predictions: Iterable[Prediction], attributes: Sequence[str], *, faces: bool = False
) -> Iterator[str]:
    """The predictions as text of `kind` ("jsonl", "json" or "csv"), in pieces as they come. faces: were looked for."""
    if kind == "csv":
        return predictions_csv(predictions, attributes, faces=faces)
    return predictions_jsonl(predictions) if kind == "jsonl" else predictions_json(predictions)


def predictions_jsonl(predictions: Iterable[Prediction]) -> Iterator[str]:
    """A line of JSON for each prediction, given as soon as the prediction is there."""
    for prediction in predictions:
        yield prediction_json(prediction) + "\n"


def predictions_json(predictions: Iterable[Prediction]) -> Iterator[str]:
    """The same records as one JSON array, in pieces, so that no more than one prediction is held."""
    separator = "[\n"
    for prediction in predictions:
        yield separator + prediction_json(prediction)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def predictions_csv(
    predictions: Iterable[Prediction], attributes: Sequence[str], *, faces: bool = False
) -> Iterator[str]:
    """A header, then a row for each prediction: file, present (joined by ";"), error, and each attribute's probability.

    faces: before the probabilities face_found (true or false), face_number, face_count, face_box (x;y;width;height) and
    face_eyes (x;y;x;y), as `prediction_json` has them.

    An attribute that is not listed for a file (see `top`) is an empty cell. One that is called as a column before it,
    say "file", has its column named "attribute:file". Cells hold names as they are, also those that begin as formulas.
    """
    columns = [*_FIXED_COLUMNS, *(_FACE_COLUMNS if faces else ())]
    for name in attributes:
        column = name
        while column in columns or (column != name and column in attributes):
            column = f"attribute:{column}"
        columns.append(column)
    yield csv_line(columns)
    for prediction in predictions:
        probs = [prediction.probs.get(name, "") for name in attributes]
        face = _face_cells(prediction.face) if faces else []
        yield csv_line([prediction.file, ";".join(prediction.present), prediction.error or "", *face, *probs])


def _face_cells(face: FoundFace | None) -> list[Any]:
    """Of an image that cannot be read all are empty."""
    if face is None:
        return [""] * len(_FACE_COLUMNS)
    places = (face.box or (), itertools.chain(*(face.eyes or ())))
    cells = [face.found, face.number, face.count, *(";".join(map(str, place)) for place in places)]
    return [_cell(cell) for cell in cells]


def dumps(document: Mapping[str, Any], indent: int | None) -> str:
    """JSON with letters of any language as they are; a file name that is no valid text is written with escapes."""
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(document, indent=indent, ensure_ascii=True, allow_nan=False)
    return text


def csv_line(cells: Sequence[Any]) -> str:
    """With its end of line."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # the writer quotes only the line ends that it uses
    return line.getvalue().removesuffix("\r\n") + "\n"


def plain(value: Any) -> Any:
    """numpy numbers → Python's, NaN → None, all the way down."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def csv_table(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The columns of `header` of each row; undefined is an empty cell."""
    lines = [csv_line(header)]
    for row in rows:
        lines.append(csv_line([_cell(plain(row[name])) for name in header]))
    return "".join(lines)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value
