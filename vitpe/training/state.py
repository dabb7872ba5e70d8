"""All that resuming needs, in one safetensors file, so that it is either whole or the one before."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import safetensors.torch
from torch import Tensor

from vitpe.errors import VitpeError
from vitpe.files import write_atomic
from vitpe.training.checkpoint import read_metadata, read_tensors

STATE_VERSION: Final = 1


@dataclass(frozen=True)
class TrainState:
    """A run after `step` updates. Data order and random draws are functions of (seed, step) and need no state.

    model, average, optimizer: named tensors; average is empty without EMA.
    loss_sum, num_losses: since the last row of the log. best_score, last_scores: on valid, None before the first.
    fingerprint: of the training data.
    """

    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    loss_sum: Tensor
    num_losses: int
    best_score: float | None
    last_scores: dict[str, float] | None
    fingerprint: str


def save_state(path: Path, state: TrainState) -> None:
    """Write `path` whole or not at all."""
    tensors = {
        f"{group}/{name}": value.detach().cpu().contiguous()
        for group in ("model", "average", "optimizer")
        for name, value in getattr(state, group).items()
    }
    tensors["loss_sum"] = state.loss_sum.detach().cpu()
    values = {
        "state_version": STATE_VERSION,
        "step": state.step,
        "num_losses": state.num_losses,
        "best_score": state.best_score,
        "last_scores": state.last_scores,
        "fingerprint": state.fingerprint,
    }
    write_atomic(path, safetensors.torch.save(tensors, metadata={"vitpe_state": json.dumps(values)}))


def load_state(path: Path) -> TrainState:
    """The state that `save_state` wrote, on the CPU; VitpeError for anything else."""
    try:
        values = json.loads(read_metadata(path)["vitpe_state"])
        version = values.pop("state_version")
    except (KeyError, ValueError, AttributeError) as error:
        raise VitpeError(f"{path} is no training state ({error})", "start anew in another folder") from error
    if version != STATE_VERSION:
        raise VitpeError(f"{path} has state version {version}, not {STATE_VERSION}", "use the vitpe that wrote it")
    tensors = read_tensors(path)

    def group(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    try:
        return TrainState(
            model=group("model/"),
            average=group("average/"),
            optimizer=group("optimizer/"),
            loss_sum=tensors["loss_sum"],
            **values,
        )
    except (KeyError, TypeError) as error:
        raise VitpeError(f"{path} is no whole training state ({error})", "start anew in another folder") from error
