"""Runs as a page and as a picture of their curves: what their folders have, and what was found out about them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vitpe.cli.console import show_note
from vitpe.errors import VitpeError
from vitpe.files import read_bounded, write_atomic
from vitpe.outputs import refuse_foreign
from vitpe.reporting.run_page import MAX_RUNS, RunRecord, run_page, stored_attributes
from vitpe.runs.find import newest_run
from vitpe.runs.folder import RunFolder
from vitpe.viz.options import VizOptions

REPORT: Final = "report.html"
"""In a run's folder."""
PAGE: Final = "pe_similarity.html"
PICTURE: Final = "run_curves.png"
_REPORT_BYTES: Final = 100_000_000


def run_record(folder: Path) -> RunRecord:
    """Of a run's folder; the scores of attributes are those of its report, which nothing else keeps. VitpeError when it
    is none, or damaged.
    """
    run = RunFolder(folder)
    try:
        report = read_bounded(folder / REPORT, _REPORT_BYTES).decode(errors="replace")
    except VitpeError:
        report = ""
    return RunRecord(str(folder), run.read_config(), run.read_rows(), stored_attributes(report))


def run_records(paths: Sequence[Path]) -> list[RunRecord]:
    """Of those of the paths that are runs, or folders of runs; the first MAX_RUNS, and more are noted."""
    named = [path if RunFolder(path).exists else newest_run(path, "history") for path in paths if path.is_dir()]
    folders = [folder for folder in named if folder is not None and RunFolder(folder).exists]
    if left_out := len(folders[MAX_RUNS:]):
        show_note(f"curves of the first {MAX_RUNS} runs: more cannot be told apart, {left_out} left out")
    return [run_record(folder) for folder in folders[:MAX_RUNS]]


def check_outputs(options: VizOptions, page: str = PAGE) -> None:
    """UsageError where a file that is not of vitpe's writing is in the way."""
    for name, wanted in ((PICTURE, options.stills), (page, options.html)):
        if wanted:
            refuse_foreign(options.out / name)


def draw_curves(runs: Sequence[RunRecord], options: VizOptions) -> list[Path]:
    """Write PICTURE with the stills, where there is a row to draw; what was written."""
    if not options.stills or not any(run.rows for run in runs):
        return []
    from vitpe.reporting.run_curves import curves_png

    path = options.out / PICTURE
    write_atomic(path, curves_png(runs))
    return [path]


def write_page(
    path: Path,
    runs: Sequence[RunRecord],
    history: Mapping[str, Any] | None,
    probe: Mapping[str, Any] | None = None,
) -> None:
    """The page of runs, whole or not at all; see `run_page`."""
    write_atomic(path, run_page(runs, history, probe).encode(errors="replace"))
