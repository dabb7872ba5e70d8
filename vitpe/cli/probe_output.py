"""What `viz-pe --probe` does beside the pictures of the history: run checkpoints, and show what they lose."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitpe.cli import console
from vitpe.errors import UsageError, VitpeError
from vitpe.files import read_bounded, write_atomic
from vitpe.inference.eval_options import EvalOptions, EvalPlan, plan
from vitpe.inference.probe_result import PositionProbe
from vitpe.outputs import refuse_foreign
from vitpe.runs.find import history_files, weights_file
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import read_info
from vitpe.runs.weights import refuse_history
from vitpe.viz.history import evenly

PICTURES = ("pe_probe.png", "pe_attention.png")
HISTORY_PICTURE = "pe_probe_history.png"
KEPT = "probe.json"
"""In a run's folder."""
_KEPT_BYTES = 100_000_000


def plan_probe(
    paths: Sequence[Path], data: str | None, labels: Sequence[Path] | None, num_checkpoints: int, out: Path
) -> EvalPlan:
    """What is to be run: the run's best checkpoint, or so many of its history. Raises at once what would stop it later.

    UsageError for several paths; VitpeError for a history of embeddings alone, and for data that are not there.
    """
    if len(paths) != 1:
        raise UsageError(f"--probe with {len(paths)} paths", "probe one run, or one checkpoint, at a time")
    if num_checkpoints == 1:
        files = [weights_file(paths[0])]
    else:
        found = history_files(paths[0])
        files = [found[index] for index in evenly(len(found), num_checkpoints)]
    infos = {file: read_info(file) for file in files}
    for file, info in infos.items():
        if info.history_only and num_checkpoints > 1:
            raise VitpeError(
                f"{file} holds position embeddings only, no whole model",
                "probe the best checkpoint: without --probe-checkpoints; vitpe train --keep all keeps whole models",
            )
        refuse_history(info, file)
    if kinds := {info.model.rope for info in infos.values()} - {"none"}:
        console.show_note(
            f"{paths[0]} also knows places by rotary embeddings ({', '.join(sorted(kinds))}), which stay as they are"
        )
    for name in _pictures(len(files)):
        refuse_foreign(out / name)
    return plan(files, EvalOptions(data, labels), console.show_note)


def _pictures(num_checkpoints: int) -> tuple[str, ...]:
    return (*PICTURES, HISTORY_PICTURE) if num_checkpoints > 1 else PICTURES


def run_probe(planned: EvalPlan, num_images: int, device: str | None) -> list[PositionProbe]:
    """Here torch is imported."""
    from vitpe.cli.progress import Counters
    from vitpe.device import select_device
    from vitpe.inference.probe import probe

    with Counters() as counters:
        return probe(planned, num_images, select_device(device), counters)


def add_records(records: Sequence[dict[str, Any]], probes: Sequence[PositionProbe]) -> None:
    """Put each probe into the record of its step, or, where the history has none of that step, into the last."""
    from vitpe.reporting.probe_records import probe_record

    for probe in probes:
        same = [record for record in records if record["step"] == probe.info.step]
        (same or records)[-1]["probe"] = probe_record(probe)


def kept_probe(folder: Path, grid_size: Sequence[int]) -> dict[str, Any] | None:
    """What the last probe of a run found, for its page; None where there is none, or none of this version."""
    from vitpe.reporting.probe_section import parse_probe_section

    path = folder / KEPT
    if not path.is_file():
        return None
    try:
        section = parse_probe_section(read_bounded(path, _KEPT_BYTES))
    except VitpeError:
        section = None
    if section is None or section.get("grid_size") != list(grid_size):
        console.show_note(f"{path} is left out: it is not a probe of this version's and of this model's grid")
        return None
    return section


def keep_probe(planned: EvalPlan, section: dict[str, Any]) -> None:
    """In the folder of the run that was probed, if it is one that can be written to, for its page."""
    first = planned.checkpoints[0]
    folder = next((each for each in (first.parent, first.parent.parent) if RunFolder(each).exists), None)
    if folder is None:
        return
    try:
        refuse_foreign(folder / KEPT)
        write_atomic(folder / KEPT, json.dumps(section).encode())
    except VitpeError as error:
        console.show_note(f"the probe is not kept with its run: {error.message}")


def draw_probe(probes: Sequence[PositionProbe], out: Path, cmap: str) -> None:
    """Write the pictures of the last one, and of several that of what is lost when."""
    from vitpe.viz.animation import png
    from vitpe.viz.attention_picture import attention_picture
    from vitpe.viz.colours import make_palette
    from vitpe.viz.probe_history_picture import probe_history_picture
    from vitpe.viz.probe_picture import probe_picture

    pictures = [probe_picture(probes[-1]), attention_picture(probes[-1], make_palette(cmap))]
    if len(probes) > 1:
        pictures.append(probe_history_picture(probes))
    for name, pixels in zip(_pictures(len(probes)), pictures, strict=True):
        write_atomic(out / name, png(pixels))
        console.show_note(f"wrote {out / name}")


def show_probe(probes: Sequence[PositionProbe]) -> None:
    """The last one's table, and where there are several, a line for each."""
    from vitpe.reporting.probe_table import history_table, probe_table

    console.show_table(probe_table(probes[-1]))
    if len(probes) > 1:
        console.show_table(history_table(probes))
