"""All that resuming needs, in one safetensors file, so that it is either whole or the one before."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from vitpe.errors import VitpeError
from vitpe.fields import from_json, to_json
from vitpe.runs.checkpoint import check_tensors, read_file, write_tensors
from vitpe.text import brief

STATE_VERSION: Final = 2
_KEY: Final = "vitpe_state"
_GROUPS: Final = ("model", "average", "optimizer", "whitening")
_HINT: Final = "start another run: --run FOLDER; the checkpoints of this one are still there"


@dataclass(frozen=True)
class Machine:
    """What the last bits of a run depend on beside its configuration.

    processor: a GPU's name, or what a CPU computes with. num_threads: of the CPU, each worker's. torch_version: as
    torch.__version__. attention: the kernel that a GPU computes it with, "" where there is none to choose.
    """

    processor: str
    num_threads: int
    num_workers: int
    precision: str
    torch_version: str
    attention: str = ""

    @staticmethod
    def here(precision: str, device: torch.device, num_workers: int) -> "Machine":
        """Of this process."""
        if device.type == "cuda":
            processor = torch.cuda.get_device_name(device)
        else:
            processor = f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
        return Machine(processor, torch.get_num_threads(), num_workers, precision, str(torch.__version__))

    def changes(self, other: "Machine") -> str:
        """ "threads 1 where it had 2; …": what `other` has where it is not as here, "" when it is."""
        names = (f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))
        shown = {name: name.removeprefix("num_").replace("_", " ") for name in names}
        return "; ".join(f"{word} {getattr(other, n)} where it had {getattr(self, n)}" for n, word in shown.items())


@dataclass(frozen=True)
class RunProgress:
    """How far a run is after `step` updates.

    num_losses: summed up since the last row of the log.
    scores: the last on valid, None before the first; scored_step: when. best_score, best_step: of the best so far.
    fingerprint: of the data. run_id, machine: whose state it is, and where it was computed; None in old ones.
    """

    fingerprint: str
    step: int = 0
    num_losses: int = 0
    scores: dict[str, float] | None = None
    scored_step: int | None = None
    best_score: float | None = None
    best_step: int | None = None
    run_id: str | None = None
    machine: Machine | None = None

    def __post_init__(self) -> None:
        if min(self.step, self.num_losses) < 0:
            raise VitpeError(f"step {self.step} with {self.num_losses} losses", _HINT)


@dataclass(frozen=True)
class TrainState:
    """A run after progress.step updates. Data order and random draws are functions of (seed, step) and need no state.

    model, average, optimizer, whitening: named tensors; average is empty without EMA, the last two before the first
    update.
    loss_sums: (workers,), each one's sum over progress.num_losses steps.
    """

    progress: RunProgress
    model: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    whitening: dict[str, Tensor] = field(default_factory=dict)
    loss_sums: Tensor = field(default_factory=lambda: torch.zeros(1))


def save_state(path: Path, state: TrainState) -> None:
    """Write `path` whole or not at all; VitpeError, with `path` untouched, when training has diverged."""
    groups = {name: getattr(state, name) for name in _GROUPS}
    tensors = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
    tensors["loss_sums"] = state.loss_sums
    values = {"state_version": STATE_VERSION, **to_json(state.progress)}
    write_tensors(path, tensors, {_KEY: json.dumps(values, allow_nan=False)})


def load_state(path: Path) -> TrainState:
    """The state that `save_state` wrote, on the CPU; VitpeError for anything else."""
    metadata, tensors = read_file(path)
    progress = _parse_progress(path, metadata)
    groups: dict[str, dict[str, Tensor]] = {name: {} for name in ("", *_GROUPS)}
    for key, value in tensors.items():
        group, _, name = key.rpartition("/")
        if group not in groups:
            raise VitpeError(f"{path}: tensor {brief(key)!r} is not part of a training state", _HINT)
        groups[group][name] = value
    single = groups.pop("")
    num_workers = len(single["loss_sums"]) if "loss_sums" in single and single["loss_sums"].ndim == 1 else 1
    check_tensors(single, {"loss_sums": torch.zeros(max(1, num_workers))}, path)
    return TrainState(progress, **groups, loss_sums=single["loss_sums"])


def _parse_progress(path: Path, metadata: dict[str, str]) -> RunProgress:
    try:
        values = json.loads(metadata[_KEY])
        version = values.pop("state_version")
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise VitpeError(f"{path} is no training state ({type(error).__name__}: {brief(error)})", _HINT) from error
    if version != STATE_VERSION:
        raise VitpeError(
            f"{path} has state version {brief(repr(version))}, not {STATE_VERSION}", "use the vitpe that wrote it"
        )
    try:
        return from_json(RunProgress, values, _KEY)
    except (VitpeError, OverflowError) as error:
        raise VitpeError(f"{path}: its metadata is damaged ({brief(error)})", _HINT) from error
