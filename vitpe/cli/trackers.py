"""What `train` writes beside the run: its page, and with --log TensorBoard and Weights & Biases."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.cli.options import one_of
from vitpe.cli.run_output import REPORT, run_record, write_page
from vitpe.errors import UsageError, VitpeError
from vitpe.fields import flatten
from vitpe.metrics.scores import Scores
from vitpe.outputs import refuse_foreign
from vitpe.reporting.run_page import attribute_scores
from vitpe.runs.folder import RunFolder
from vitpe.training.tracking import Tracker

if TYPE_CHECKING:
    from vitpe.viz.page_section import GrowingHistory

_PER_ATTRIBUTE: Final = ("accuracy", "average_precision")
_COUNTS: Final = ("true positives", "false positives", "false negatives", "true negatives")


class TensorBoard:
    """Event files in the run's folder, under tensorboard/."""

    name = "tensorboard"

    def start(self, folder: Path, run_id: str | None, config: Mapping[str, Any], step: int) -> None:
        """As Tracker's."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        if not step:
            self._writer.add_text("config", _markdown(("key", "value"), flatten(config).items()), 0)

    def log(self, row: Mapping[str, object]) -> None:
        """As Tracker's."""
        for key, value in _numbers(row).items():
            self._writer.add_scalar(key, value, row["step"])

    def scored(self, step: int, scores: Scores) -> None:
        """As Tracker's."""
        for key, value in _scores_by_attribute(scores).items():
            self._writer.add_scalar(key, value, step)
        self._writer.add_text("valid/confusion", _markdown(("attribute", *_COUNTS), _confusions(scores)), step)

    def finish(self, folder: Path) -> None:
        """As Tracker's."""
        step, picture = _last_picture(folder)
        if picture is not None:
            self._writer.add_image("position embeddings", picture, step, dataformats="HWC")
        self._writer.close()


class Wandb:
    """A run of Weights & Biases; WANDB_MODE=offline writes it to the run's folder alone."""

    name = "wandb"

    def start(self, folder: Path, run_id: str | None, config: Mapping[str, Any], step: int) -> None:
        """As Tracker's. A run that is resumed goes on as the same."""
        import wandb

        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project="vitpe",
            name=folder.name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off"),  # what is printed stays where it is
        )

    def log(self, row: Mapping[str, object]) -> None:
        """As Tracker's."""
        self._run.log(_numbers(row), step=row["step"])

    def scored(self, step: int, scores: Scores) -> None:
        """As Tracker's."""
        table = self._wandb.Table(columns=["attribute", *_COUNTS], data=[list(row) for row in _confusions(scores)])
        self._run.log({**_scores_by_attribute(scores), "valid/confusion": table}, step=step)

    def finish(self, folder: Path) -> None:
        """As Tracker's."""
        step, picture = _last_picture(folder)
        if picture is not None:
            self._run.log({"position embeddings": self._wandb.Image(picture)}, step=step)
        self._run.finish()


class ReportPage:
    """report.html in the run's folder, written anew after each scoring."""

    name = REPORT

    def start(self, folder: Path, run_id: str | None, config: Mapping[str, Any], step: int) -> None:
        """As Tracker's."""
        refuse_foreign(folder / REPORT)
        self._folder = folder
        self._history: GrowingHistory | None = None
        self._scores: Scores | None = None  # of this process's last scoring

    def log(self, row: Mapping[str, object]) -> None:
        """As Tracker's."""
        if "valid_accuracy" in row:
            self._write()

    def scored(self, step: int, scores: Scores) -> None:
        """As Tracker's."""
        self._scores = scores

    def finish(self, folder: Path) -> None:
        """As Tracker's."""
        self._write()

    def _write(self) -> None:
        record = run_record(self._folder)
        if self._scores is not None:  # else those of the page that is there, from before the run was resumed
            record = replace(record, attributes=attribute_scores(self._scores))
        write_page(self._folder / REPORT, [record], self._section())

    def _section(self) -> dict[str, Any] | None:
        """Of the embeddings' history; None where none is kept."""
        from vitpe.viz.page_section import GrowingHistory

        self._history = self._history or GrowingHistory(self._folder)
        try:
            return self._history.section()
        except VitpeError:
            return None


_KINDS: Final[dict[str, tuple[type[TensorBoard] | type[Wandb], str]]] = {
    "tensorboard": (TensorBoard, "pip install 'vitpe[tensorboard]'"),
    "wandb": (Wandb, "pip install wandb"),
}


def make_trackers(names: Sequence[str]) -> list[Tracker]:
    """The run's page, and those of --log. UsageError for one that is unknown, or whose package is not there."""
    made: list[Tracker] = [ReportPage()]
    for name in dict.fromkeys(names):
        one_of("--log", name, tuple(_KINDS))
        kind, hint = _KINDS[name]
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--log {name} needs the package {name}", hint)
        made.append(kind())
    return made


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    """Of a row of metrics.csv, grouped as trackers group: what is of valid, and the rest."""
    grouped = {
        key.replace("valid_", "valid/") if key.startswith("valid_") else f"train/{key}": value
        for key, value in row.items()
        if key != "step" and value != ""
    }
    return {key: float(str(value)) for key, value in grouped.items()}


def _scores_by_attribute(scores: Scores) -> dict[str, float]:
    return {
        f"valid {metric}/{name}": float(value)
        for metric in _PER_ATTRIBUTE
        for name, value in zip(scores.attributes, scores[metric], strict=True)
        if np.isfinite(value)
    }


def _confusions(scores: Scores) -> list[tuple[str, int, int, int, int]]:
    """Of each attribute the four counts of its 2 × 2 table."""
    n = scores.num_images
    positive = np.rint(scores["prevalence"] * n).astype(int)
    hits = np.rint(np.nan_to_num(scores["recall"]) * positive).astype(int)
    right = np.rint(scores["accuracy"] * n).astype(int)
    negatives_right = right - hits
    columns = (hits, n - positive - negatives_right, positive - hits, negatives_right)
    return list(zip(scores.attributes, *(column.tolist() for column in columns), strict=True))


def _markdown(heads: Sequence[str], rows: Any) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines)


def _last_picture(folder: Path) -> tuple[int, NDArray[np.uint8] | None]:
    """The step of the history's last checkpoint, and its maps; None where there is nothing to draw."""
    from vitpe.viz.history import load_history
    from vitpe.viz.visualize import STILLS, still_picture

    run = RunFolder(folder)
    if not any(run.checkpoints.glob("*.safetensors")):
        return 0, None
    last = load_history([run.checkpoints], None, lambda _: None)[-1]
    return last.step or 0, still_picture(last, STILLS[0])
