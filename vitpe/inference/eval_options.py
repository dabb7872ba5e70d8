"""What `eval` is asked for, and all that is known of it before a model runs. Torch-free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from vitpe.config import DataConfig, Precision
from vitpe.data.sources import check_source
from vitpe.errors import UsageError
from vitpe.inference.groups import Terms
from vitpe.inference.maps import MapOptions
from vitpe.inference.predictions import MapMethod, select_attributes
from vitpe.inference.trained_on import OUT_OF_SAMPLE_HINT, data_of
from vitpe.metrics.thresholds import Criterion, Method
from vitpe.outputs import check_output
from vitpe.runs.find import weights_file
from vitpe.runs.metadata import read_info
from vitpe.text import some

Split = Literal["train", "valid", "test"]
FIT_SPLIT: Final = "valid"
"""Where thresholds and calibration are fitted, and so where they are not to be reported."""


@dataclass(frozen=True)
class EvalOptions:
    """data, labels, relabel: as in DataConfig, None for what the run was trained on. split: train, valid or test.

    thresholds: "tune", or a number for all attributes, or None for the checkpoint's own. criterion: of tuning, None
    for the first of CRITERIA. calibrate: None for not at all. precision: in which the model computes what is reported.
    by: which labels part the images into groups, empty for no groups.
    refit: a new checkpoint, with rows of the head fitted on the groups, None for none.
    attributes: which are scored, empty for all.
    suspects: whether wrong labels are looked for, which only a model that did not train on them can find.
    maps: by which method it is asked where the model looks on average, None where it is not.
    Raises UsageError for combinations that mean nothing, and when what is fitted would be reported where it was.
    """

    data: str | None = None
    labels: Sequence[Path] | None = None
    split: Split = "valid"
    thresholds: str | None = None
    criterion: Criterion | None = None
    calibrate: Method | None = None
    precision: Precision = "fp32"
    by: Terms = field(default_factory=dict)
    suspects: bool = False
    relabel: Path | None = None
    refit: Path | None = None
    maps: MapMethod | None = None
    attributes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.labels is not None and self.data is None:
            raise UsageError(
                f"--labels {some([*map(str, self.labels)])} without --data",
                "name the folder of the images: --data FOLDER",
            )
        if self.criterion is not None and not self.tunes:
            raise UsageError(f"--criterion {self.criterion} without tuning", "tune thresholds with: --thresholds tune")
        if self.refit is not None:
            self._check_refit(self.refit)
        if self.fits and self.split == FIT_SPLIT:
            raise UsageError(
                f"what is fitted on {FIT_SPLIT} must not be reported on {FIT_SPLIT}", "report on test: --split test"
            )
        if self.suspects and self.split == "train" and self.data is None:
            raise UsageError("the model was trained on train, and agrees with its wrong labels", OUT_OF_SAMPLE_HINT)
        if not self.tunes and self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.thresholds} is not a probability", "choose one from 0 to 1, or tune")

    def _check_refit(self, out: Path) -> None:
        if not self.by or not all(value is None for value in self.by.values()):
            raise UsageError("--fit head without groups", "name what parts the images: --by Blond_Hair,Male")
        if self.tunes or self.calibrate is not None:
            other = "--thresholds tune" if self.tunes else f"--calibrate {self.calibrate}"
            raise UsageError(f"--fit head with {other}", f"fit the head first, then call {other} on {out}")
        if out.exists():
            raise UsageError(f"--out {out} is there already", "choose another name, or move it away")
        check_output(out, ".safetensors", "--out")

    @property
    def tunes(self) -> bool:
        """Whether thresholds are fitted."""
        return self.thresholds == "tune"

    @property
    def fits(self) -> bool:
        """Whether anything is."""
        return self.tunes or self.calibrate is not None or self.refit is not None

    @property
    def threshold(self) -> float | None:
        """The number given for all attributes, if one was."""
        if self.thresholds is None or self.tunes:
            return None
        try:
            return float(self.thresholds)
        except ValueError:
            raise UsageError(f"--thresholds {self.thresholds!r}", "choose 'tune', or a number from 0 to 1") from None


@dataclass(frozen=True)
class EvalPlan:
    """Checkpoints to score, and the images to score them on, with all labels that they have.

    trained_on: what each checkpoint's run was trained on, where no other data were named.
    """

    checkpoints: tuple[Path, ...]
    data: DataConfig
    options: EvalOptions
    trained_on: tuple[DataConfig, ...] = ()


def plan(paths: Sequence[Path], options: EvalOptions, tell: Callable[[str], None]) -> EvalPlan:
    """What paths, of checkpoints or runs, and options come to. tell: called with what the user should know.

    Raises VitpeError for checkpoints that cannot be read and for data that are not there, UsageError when the
    checkpoints were trained on different data and none were named.
    """
    checkpoints = tuple(weights_file(path, tell) for path in paths)
    infos = [read_info(path) for path in checkpoints]
    if options.maps:
        MapOptions(options.maps).check(infos[0].model)
    for info in infos:
        select_attributes(info.attributes, options.attributes)
    relabel = None if options.relabel is None else str(options.relabel)
    found: list[DataConfig] = []
    if options.data is not None:
        labels = None if options.labels is None else tuple(map(str, options.labels))
        data = DataConfig(options.data, labels, relabel=relabel)
    else:
        found = [data_of(path, info, tell) for path, info in zip(checkpoints, infos, strict=True)]
        data, other = (replace(one, attributes=None, relabel=relabel or one.relabel) for one in (found[0], found[-1]))
        if data != other:
            first, last = (
                f"{one.data}, relabelled by {one.relabel}" if data.relabel != other.relabel else one.data
                for one in (data, other)
            )
            raise UsageError(
                f"{checkpoints[0]} was trained on {first}, {checkpoints[-1]} on {last}",
                "name the images to compare them on: --data FOLDER",
            )
    check_source(data, infos[0].model.img_size)
    return EvalPlan(checkpoints, data, options, tuple(found))
