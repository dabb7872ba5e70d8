"""Suspect labels as text for programs and for a person who mends them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitpe.inference.suspects import SuspectLabels
from vitpe.metrics.scores import Scores
from vitpe.reporting.records import csv_line
from vitpe.text import some

COLUMNS = ("image", "attribute", "label", "probability", "kind", "contradicts", "rank", "value")


def suspects_csv(suspects: SuspectLabels) -> str:
    """A row for each suspect label, the most doubtful first.

    label: the one given, 0 or 1. probability: of 1, by the model. kind: "model", "contradiction" or "both".
    contradicts: the attributes that exclude this one and that the image is labelled with too, joined by ";".
    value: empty, for a person to write the right label, 0 or 1; left empty, the label stays as it is.
    """
    lines = [csv_line(COLUMNS)]
    for rank, row in enumerate(suspects.rows, 1):
        contradicts = ";".join(row.contradicts)
        cells = [row.image, row.attribute, row.label, f"{row.probability:.6f}", row.kind, contradicts, rank, ""]
        lines.append(csv_line(cells))
    return "".join(lines)


def suspects_record(suspects: SuspectLabels) -> dict[str, Any]:
    """What `eval_json` holds as "suspects": counts; the labels themselves are in the file.

    {"num_labels", "num_suspects", "attributes": [{"attribute", "should_be_present", "should_be_absent",
    "num_suspects"}], "contradictions": [{"attributes": [two], "num_images"}]}. should_be_…: estimated label errors,
    of images labelled with the opposite. num_suspects: all rows of the file; of an attribute: those the model doubts.
    """
    by_model, found = suspects.by_model, suspects.contradictions
    errors, num_found = by_model.num_errors(), by_model.found.sum(axis=0)
    return {
        "num_labels": suspects.num_labels,
        "num_suspects": len(suspects.rows),
        "attributes": [
            {
                "attribute": name,
                "should_be_present": int(errors[a, 0]),
                "should_be_absent": int(errors[a, 1]),
                "num_suspects": int(num_found[a]),
            }
            for a, name in enumerate(by_model.attributes)
        ],
        "contradictions": [
            {"attributes": list(pair), "num_images": count}
            for pair, count in zip(found.pairs, found.counts(), strict=True)
        ],
    }


def suspects_notes(suspects: SuspectLabels, scores: Scores, path: Path) -> Iterator[str]:
    """A line each: how many there are and what to do with the file; where the model knows too little to doubt a label.

    scores: of the same answers. Confident learning takes a model's errors for those of the labels.
    """
    if suspects.rows:
        num_contradictions = len(suspects.rows) - suspects.num_of("model")
        yield (
            f"{len(suspects.rows):,} of {suspects.num_labels:,} labels are suspect, {num_contradictions:,} of them "
            f"contradict another label: write the right one (0 or 1) in the last column of {path}, and --relabel it"
        )
    else:
        yield f"none of {suspects.num_labels:,} labels is suspect: {path} has no rows"
    weak = [name for name, lift in zip(scores.attributes, scores["lift"], strict=True) if lift <= 0]
    if weak:
        yield (
            f"the model is no better than the majority answer on {len(weak)} of {len(scores.attributes)} attributes, "
            f"and its doubts there say little: {some(weak)}"
        )
