"""The curves of runs: what their folders have, as a page and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

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
PAGE: Final = "runs.html"
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


def check_outputs(options: VizOptions) -> None:
    """UsageError where a file that is not of vitpe's writing is in the way."""
    for name, wanted in ((PICTURE, options.stills), (PAGE, options.html)):
        if wanted:
            refuse_foreign(options.out / name)


def draw_curves(paths: Sequence[Path], options: VizOptions) -> list[Path]:
    """Write PICTURE with the stills and PAGE with the page, of those of the paths that are runs; what was written."""
    named = [path if RunFolder(path).exists else newest_run(path, "history") for path in paths if path.is_dir()]
    folders = [folder for folder in named if folder is not None and RunFolder(folder).exists]
    runs = [run_record(folder) for folder in folders[:MAX_RUNS]]
    if left_out := len(folders) - len(runs):
        show_note(f"curves of the first {MAX_RUNS} runs: more cannot be told apart, {left_out} left out")
    if not any(run.rows for run in runs):
        return []
    written = []
    if options.stills:
        from vitpe.reporting.run_curves import curves_png

        written.append(options.out / PICTURE)
        write_atomic(written[-1], curves_png(runs))
    if options.html:
        written.append(options.out / PAGE)
        write_atomic(written[-1], run_page(runs).encode(errors="replace"))
    return written
