"""Runs as one self-contained web page: position embeddings, what they are good for, curves, scores and settings.

Whatever a run lacks the page says.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np

from vitpe import __version__
from vitpe.config import RunConfig
from vitpe.errors import UsageError
from vitpe.fields import flatten, to_json
from vitpe.metrics.scores import Scores
from vitpe.reporting.page import render, shared_text, stored_data
from vitpe.text import printable

MAX_RUNS: Final = 4
"""In one page: more curves of one colour each nobody can tell apart."""


@dataclass(frozen=True)
class CurveFormat:
    """key: the column of metrics.csv. name: for people. percent: of a fraction. digits: of its values. zero: where its
    axis begins.
    """

    key: str
    name: str
    percent: bool = False
    digits: int = 2
    zero: bool = False


CURVES: Final = (
    CurveFormat("loss", "training loss", digits=4),
    CurveFormat("valid_accuracy", "accuracy on valid", percent=True),
    CurveFormat("valid_mean_average_precision", "mean average precision on valid", percent=True),
    CurveFormat("learning_rate_factor", "learning rate, of its peak", digits=3, zero=True),
    CurveFormat("images_per_second", "images per second", digits=0, zero=True),
)
_COLUMNS: Final = (
    ("prevalence", "prev"),
    ("accuracy", "acc"),
    ("majority_accuracy", "major"),
    ("lift", "lift"),
    ("average_precision", "AP"),
)


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it.

    name: for people. rows: of metrics.csv, column → text. attributes: of the last scoring, where it is at hand, name →
    score → value, None where undefined, as `attribute_scores` gives them.
    """

    name: str
    config: RunConfig
    rows: Sequence[Mapping[str, object]]
    attributes: Mapping[str, Mapping[str, float | None]] | None = None


def run_page(
    runs: Sequence[RunRecord], history: Mapping[str, Any] | None = None, probe: Mapping[str, Any] | None = None
) -> str:
    """The page of at most MAX_RUNS runs; UsageError for more. Curves of percentages are fractions in its data.

    history: what `viz.page_section.history_section` says of their position embeddings. probe: what
    `probe_section.probe_section` says of their use. Without runs, the page is of checkpoints alone.
    """
    if len(runs) > MAX_RUNS:
        raise UsageError(f"{len(runs)} runs for one page", f"name {MAX_RUNS} at most")
    data = {
        "history": history,
        "probe": probe,
        "runs": [_run(run) for run in runs],
        "curves": [asdict(curve) for curve in CURVES],
        "columns": [list(column) for column in _COLUMNS],
        "settings": list(_settings(runs)),
        "lacks": list(_lacks(runs, history, probe)),
    }
    names = [run.name for run in runs] or [side["name"] for side in (history or {}).get("sides", ())]
    return render(shared_text("run.html"), ", ".join(names) or "Position embeddings", data)


def _lacks(
    runs: Sequence[RunRecord], history: Mapping[str, Any] | None, probe: Mapping[str, Any] | None
) -> Iterator[str]:
    """What is not on the page, and why."""
    if history is None:
        yield "Maps of position embeddings: no history is there to read."
    elif history["num_checkpoints"] == 1:
        yield "Time: there is one checkpoint alone."
    if probe is None and len(runs) < 2:
        yield "What position is good for, and how far attention looks: vitpe viz-pe RUN --probe --html measures it."
    if not runs:
        yield "Curves and settings: these are checkpoints alone, without a run's folder around them."
    elif not any(run.rows for run in runs):
        yield "Curves: no step is logged yet."
    if runs and not any(run.attributes for run in runs):
        yield "Scores of each attribute: the page that training writes has them, and vitpe eval RUN --report FILE.html."


def stored_attributes(page: str) -> dict[str, dict[str, float | None]] | None:
    """The `attributes` of the first run of a page that `run_page` made; None where it has none, or was damaged."""
    try:
        stored = stored_data(page)["runs"][0]["attributes"]
        return {str(name): {key: _number(values[key]) for key, _ in _COLUMNS} for name, values in stored.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(float(value)) else None


def _run(run: RunRecord) -> dict[str, Any]:
    curves = {curve.key: curve_of(run.rows, curve.key) for curve in CURVES}
    return {
        "name": printable(run.name),
        "facts": [[name, printable(value)] for name, value in _facts(run, curves)],
        "curves": curves,
        "last_step": int(str(run.rows[-1]["step"])) if run.rows else 0,
        "attributes": run.attributes,
    }


def curve_of(rows: Sequence[Mapping[str, object]], column: str) -> list[tuple[int, float]]:
    """(step, value) wherever rows of metrics.csv have one that is finite."""
    found = [(int(str(row["step"])), str(row.get(column, ""))) for row in rows]
    return [(step, float(f"{float(text):.6g}")) for step, text in found if text and np.isfinite(float(text))]


def _facts(run: RunRecord, curves: Mapping[str, list[tuple[int, float]]]) -> Iterator[tuple[str, str]]:
    yield "preset", run.config.preset
    yield "data", run.config.data.data
    if run.rows:
        yield "step", f"{int(str(run.rows[-1]['step'])):,}"
        yield "images seen", f"{int(str(run.rows[-1]['images_seen'])):,}"
    for key, name in (("valid_accuracy", "accuracy"), ("valid_mean_average_precision", "mAP")):
        if curve := curves[key]:
            step, best = max(curve, key=lambda point: point[1])
            yield f"best {name}", f"{100 * best:.2f} %, step {step:,}"
            yield f"last {name}", f"{100 * curve[-1][1]:.2f} %"
    majority = [scores["majority_accuracy"] for scores in (run.attributes or {}).values()]
    if known := [value for value in majority if value is not None]:
        yield "majority answer", f"{100 * np.mean(known):.2f} %"
    if speed := curves["images_per_second"]:
        yield "images per second", f"{np.median([value for _, value in speed]):,.0f} (median)"
    yield "written by", f"vitpe {__version__}, torch {_version('torch')}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def attribute_scores(scores: Scores) -> dict[str, dict[str, float | None]]:
    """A RunRecord's `attributes`."""
    return {
        printable(name): {
            key: float(f"{scores[key][a]:.5g}") if np.isfinite(scores[key][a]) else None for key, _ in _COLUMNS
        }
        for a, name in enumerate(scores.attributes)
    }


def _settings(runs: Sequence[RunRecord]) -> Iterator[dict[str, Any]]:
    flat = [flatten(to_json(run.config)) for run in runs]
    for key in flat[0] if flat else ():
        values = [printable(_shown(one[key])) for one in flat]
        yield {"key": key, "values": values, "differs": len(set(values)) > 1}


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
