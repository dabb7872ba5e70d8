"""The curves of runs: what their folders have, as a page and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vitpe.files import write_atomic
from vitpe.outputs import refuse_foreign
from vitpe.reporting.run_page import MAX_RUNS, RunRecord, run_page
from vitpe.runs.find import newest_run
from vitpe.runs.folder import RunFolder
from vitpe.viz.options import VizOptions

PAGE: Final = "runs.html"
PICTURE: Final = "run_curves.png"


def run_record(folder: Path) -> RunRecord:
    """Of a run's folder. VitpeError when it is none, or damaged."""
    run = RunFolder(folder)
    return RunRecord(str(folder), run.read_config(), run.read_rows())


def check_outputs(options: VizOptions) -> None:
    """UsageError where a file that is not of vitpe's writing is in the way."""
    for name, wanted in ((PICTURE, options.stills), (PAGE, options.html)):
        if wanted:
            refuse_foreign(options.out / name)


def draw_curves(paths: Sequence[Path], options: VizOptions) -> list[Path]:
    """Write PICTURE with the stills and PAGE with the page, of those of the paths that are runs; what was written."""
    folders = [path if RunFolder(path).exists else newest_run(path, "history") for path in paths if path.is_dir()]
    runs = [run_record(folder) for folder in folders if folder is not None and RunFolder(folder).exists][:MAX_RUNS]
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
