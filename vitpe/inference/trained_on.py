"""The run that a checkpoint is of, and the images that it was trained on."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from vitpe.config import DRAWN_FACES, DataConfig
from vitpe.data.samples import Samples, fingerprint
from vitpe.data.sources import is_there
from vitpe.errors import UsageError, VitpeError
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import CheckpointInfo
from vitpe.text import brief

OUT_OF_SAMPLE_HINT: Final = (
    "look at --split valid or test, or let models answer what they never saw: vitpe train --folds 4"
)


def run_of(checkpoint: Path) -> RunFolder | None:
    """The run in whose folder or history the checkpoint lies, or else what it is a link to; None for neither."""
    for path in (checkpoint.parent.resolve() / checkpoint.name, checkpoint.resolve()):
        run = RunFolder(path.parent.parent if path.parent.name == "ckpts" else path.parent)
        if run.exists:
            return run
    return None


def data_of(checkpoint: Path, info: CheckpointInfo, tell: Callable[[str], None]) -> DataConfig:
    """Where the images are that the checkpoint was trained on: all images of a split.

    Raises UsageError when it does not say, VitpeError when they are gone.
    """
    run = run_of(checkpoint)
    if run is None:
        if info.data_source == DRAWN_FACES:
            return DataConfig()
        raise UsageError(f"{checkpoint} does not say where its images are", "name the folder: --data FOLDER")
    config = run.read_config().data
    data = DataConfig(data=config.data, labels=config.labels, relabel=config.relabel, attributes=config.attributes)
    if data.data == DRAWN_FACES:
        return data
    if not Path(data.data).is_absolute():  # as runs had it once; it was meant in the folder where train was called
        data = _from_the_run(run, data)
        tell(f"{run.config} says {config.data} and not in which folder: scoring {data.data}")
    if not is_there(data.data):
        raise VitpeError(f"no {data.data}, which {checkpoint} was trained on", "name the folder: --data FOLDER")
    return data


def _from_the_run(run: RunFolder, data: DataConfig) -> DataConfig:
    """Paths looked for beside the run and above it, then in the current folder."""
    paths = [data.data, *(data.labels or ())]
    here = Path.cwd()
    above = (base for base in run.path.resolve().parents if all((base / path).exists() for path in paths))
    base = next(above, here)
    labels = None if data.labels is None else tuple(str(base / path) for path in data.labels)
    return replace(data, data=str(base / data.data), labels=labels)


def check_same_data(checkpoint: Path, data: DataConfig, open_valid: Callable[[], Samples]) -> None:
    """VitpeError when `data`, or what lies there by now, is not what the checkpoint's run was trained on.

    open_valid: opens the valid split of `data`, as far as a run says what that held.
    """
    run = run_of(checkpoint)
    if run is None:
        return
    run.read_config()
    if run.identity is None or run.identity.valid_fingerprint is None:
        return
    if fingerprint([open_valid()]) != run.identity.valid_fingerprint:
        named = [*(("--labels", path) for path in data.labels or ()), ("--relabel", data.relabel)]
        options = "".join(f" {option} {shlex.quote(path)}" for option, path in named if path is not None)
        raise VitpeError(
            f"{data.data} is not what {checkpoint} was trained on: its valid split has changed",
            f"to score it all the same, name it: --data {shlex.quote(data.data)}{options}",
        )


def check_out_of_sample(
    checkpoint: Path,
    info: CheckpointInfo,
    data: DataConfig,
    open_valid: Callable[[DataConfig], Samples],
    tell: Callable[[str], None],
) -> None:
    """VitpeError when the checkpoint was trained on the train split of `data`, be it in another place, with labels
    corrected, or with fewer attributes.

    open_valid: opens the valid split. tell: called when there is no run that would say, or it cannot be compared.
    """
    run = run_of(checkpoint)
    if run is None:
        if not info.data_source == data.data == DRAWN_FACES:
            tell(f"no run says what {checkpoint} was trained on: if on these images, it agrees with their wrong labels")
            return
    else:
        trained = run.read_config().data
        known = run.identity.valid_fingerprint if run.identity is not None else None
        same_place = trained.data == data.data or Path(trained.data).resolve() == Path(data.data).resolve()
        if not same_place:
            try:  # as the run saw it
                valid = open_valid(replace(data, relabel=trained.relabel, attributes=trained.attributes))
            except VitpeError as error:
                tell(
                    f"whether {checkpoint} was trained on these images is not known ({brief(error.message)}): if so, "
                    "it agrees with their wrong labels"
                )
                return
            if fingerprint([valid]) != known:
                return
    raise VitpeError(
        f"{checkpoint} was trained on train of {data.data}, and agrees with its wrong labels", OUT_OF_SAMPLE_HINT
    )
