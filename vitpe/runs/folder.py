"""A run's folder: who may write there, its configuration, its log, its files.

config.json, metrics.csv (a row per log step), ckpts/step-0000000.safetensors …, best.safetensors,
last/state.safetensors (all that resuming needs).
"""

import csv
import io
import json
import os
import re
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TextIO

from filelock import lock_descriptor

from vitpe.config import RunConfig
from vitpe.errors import UsageError, VitpeError
from vitpe.fields import from_json, to_json
from vitpe.files import make_folder, remove_stale_temporaries, write_atomic

METRIC_COLUMNS: Final = (
    "step",
    "epoch",
    "images_seen",
    "loss",
    "learning_rate_factor",
    "valid_accuracy",
    "valid_mean_average_precision",
    "images_per_second",
    "data_wait_share",
)
TIMING_COLUMNS: Final = ("images_per_second", "data_wait_share")
"""What differs between two runs of the same seed; every other column is the same to the last digit."""
_IDENTITY: Final = "run"
"""Where config.json has the run's identity, beside its configuration."""
_OWN_FILES: Final = re.compile(r"config\.json|metrics\.csv|(best|state|step-\d{7,})\.safetensors")
_WAIT: Final = "wait for it, or choose another folder: --run FOLDER"
P = ParamSpec("P")


class _TakenError(VitpeError):
    """Another process writes to the folder."""


@dataclass(frozen=True)
class RunIdentity:
    """What tells a run from any other, and the data that it is scored on from any other data.

    id: random. valid_fingerprint: of the whole valid split (see data.samples); None where it was not taken.
    init: the file of weights that it began with, if it did, absolute.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    valid_fingerprint: str | None = None
    init: str | None = None


class RunFolder:
    """The paths and small files of one run. identity: None before one was given or read."""

    def __init__(self, path: Path) -> None:
        self.identity: RunIdentity | None = None
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.csv"
        self.checkpoints = path / "ckpts"
        self.best = path / "best.safetensors"
        self.state = path / "last" / "state.safetensors"
        self._rows: list[Mapping[str, object]] = []
        self.lock = path / ".lock"
        self._held: TextIO | None = None

    def checkpoint(self, step: int) -> Path:
        """The history's file of that step."""
        return self.checkpoints / f"step-{step:07d}.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the system frees it when the process ends, however it ends.

        Creates the folder. Raises VitpeError when another process trains there or the folder cannot be written.
        """
        folders = self.path, self.checkpoints, self.state.parent
        try:
            for folder in folders:
                make_folder(folder)
        except OSError as error:
            raise VitpeError(
                f"cannot write to {self.path}: {error.strerror}", "choose another folder: --run FOLDER"
            ) from error
        with self.lock_existing():
            for folder in folders:
                remove_stale_temporaries(folder, _OWN_FILES)
            yield

    @contextmanager
    def lock_existing(self, hint: str = _WAIT) -> Iterator[None]:
        """As `locked`, for a folder that is there. hint: what to do when another process has it."""
        try:
            lock = self.lock.open("a")
        except OSError as error:
            raise VitpeError(
                f"cannot write to {self.path}: {error.strerror}", "choose another folder: --run FOLDER"
            ) from error
        with lock:
            try:
                is_free = lock_descriptor(lock.fileno(), blocking=False)
            except OSError as error:
                raise VitpeError(
                    f"cannot lock {self.path}: {error.strerror}", "choose a folder on another file system: --run FOLDER"
                ) from error
            if not is_free:
                raise _TakenError(f"another vitpe train is writing to {self.path}", hint)
            self._held = lock
            try:
                yield
            finally:
                self._held = None

    def write(self, write: Callable[Concatenate[Path, P], None], path: Path, *args: P.args, **kwargs: P.kwargs) -> None:
        """write(path, *args), for a file of this run: every one is written through here.

        VitpeError, with nothing written, when another folder took the place of the locked one.
        """
        self._check_held()
        write(path, *args, **kwargs)

    def _check_held(self) -> None:
        """Writing goes by names: a folder that was removed and made anew belongs to whoever holds the new lock."""
        if self._held is None or not self.path.exists():
            return  # the write itself will say what is wrong
        try:
            same = os.path.samestat(os.fstat(self._held.fileno()), self.lock.stat())
        except OSError:
            same = False
        if not same:
            raise VitpeError(
                f"{self.path} was replaced while a run wrote to it", "start again: vitpe train --run FOLDER"
            )

    @property
    def exists(self) -> bool:
        """Whether there is a run that can be resumed: config.json is written once all that it takes is on disk."""
        return self.config.exists()

    @property
    def is_unused(self) -> bool:
        """Whether no file lies there: folders may be left of a run that could not begin."""
        return self.path.is_dir() and not any(path != self.lock and path.is_file() for path in self.path.rglob("*"))

    def refuse_existing(self) -> None:
        """UsageError when the folder already holds a run or parts of one: a new run overwrites nothing."""
        single = (path for path in (self.config, self.metrics, self.best) if path.exists())
        found = next(single, None) or next(self.checkpoints.glob("*.safetensors"), None)
        if found is not None:
            another = f"choose another folder: --run {shlex.quote(f'{self.path}-2')}"
            raise UsageError(
                f"{self.path} already holds a run ({found.relative_to(self.path)})",
                f"continue it with --resume, or {another}" if self.exists else another,
            )

    def write_config(self, config: RunConfig) -> None:
        """As JSON that `read_config` reads back, and the identity with it."""
        values = to_json(config)
        if self.identity is not None:
            values[_IDENTITY] = to_json(self.identity)
        self.write(write_atomic, self.config, (json.dumps(values, indent=2) + "\n").encode())

    def read_config(self) -> RunConfig:
        """What the run was started with, and its identity; VitpeError when there is none or it is damaged."""
        values = self._read_json()
        identity = values.pop(_IDENTITY, None) if isinstance(values, dict) else None
        self.identity = None if identity is None else from_json(RunIdentity, identity, f"{self.config}: {_IDENTITY}")
        return from_json(RunConfig, values, self.config)

    def _read_json(self) -> Any:
        try:
            return json.loads(self.config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise VitpeError(f"{self.path} holds no run", "check its name, or train one first: vitpe train") from error
        except (OSError, ValueError, RecursionError) as error:
            raise VitpeError(f"cannot read {self.config}: {error}", "restore it from a copy") from error

    def log(self, row: Mapping[str, object]) -> None:
        """Add a row to metrics.csv, which is replaced as a whole: no reader ever sees half a row.

        VitpeError when it cannot be written, or when another folder took the place of the locked one.
        """
        self._rows.append(row)
        self._write_rows()

    def rewind(self, step: int) -> None:
        """Forget rows and checkpoints after `step`: the run continues from there and will write them again.

        Raises VitpeError when metrics.csv is damaged; nothing is forgotten then.
        """
        self._check_held()
        self._rows = [row for row in self.read_rows() if int(row["step"]) <= step]
        for path in self.checkpoints.glob("step-*.safetensors"):
            number = path.stem.removeprefix("step-")
            if number.isdecimal() and int(number) > step:
                path.unlink()
        self._write_rows()

    def read_rows(self) -> list[dict[str, str]]:
        """Of metrics.csv, column → text; none before there is one. VitpeError when it is damaged."""
        if not self.metrics.exists():
            return []
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise VitpeError(f"cannot read {self.metrics}: {error}", "restore it from a copy, or remove it") from error
        rows = list(csv.reader(lines))
        last = -1
        for number, row in enumerate(rows, start=1):
            if number == 1:
                whole = tuple(row) == METRIC_COLUMNS
            else:
                whole = len(row) == len(METRIC_COLUMNS) and row[0].isdecimal() and int(row[0]) > last
                last = int(row[0]) if whole else last
            if not whole:
                raise VitpeError(f"{self.metrics}, line {number}: {','.join(row)!r}", "restore it, or remove the file")
        return [dict(zip(METRIC_COLUMNS, row, strict=True)) for row in rows[1:]]

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, METRIC_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        self.write(write_atomic, self.metrics, text.getvalue().encode())


@contextmanager
def new_run(folder: Path) -> Iterator[RunFolder]:
    """The run FOLDER/N, locked, for the number after the last one there; of two that begin at once each has its own.

    Raises VitpeError when it cannot be written.
    """
    number = _next_number(folder)
    while True:
        run = RunFolder(folder / str(number))
        with ExitStack() as held:
            try:
                held.enter_context(run.locked())
                is_ours = run.is_unused  # one may have begun and ended before the folder was locked
            except _TakenError:
                is_ours = False
            if is_ours:
                yield run
                return
        number += 1


def _next_number(folder: Path) -> int:
    """One more than the largest of what is there; what holds no file may be used."""
    try:
        numbers = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdecimal()]
    except OSError:
        return 1  # creating it will say what is wrong
    return 1 + max((int(path.name) for path in numbers if not RunFolder(path).is_unused), default=0)
