"""What each of several workers has after the same work: python -m tests.helpers.ranks FOLDER

Each writes FOLDER/RANK.safetensors. See tests/training/test_ranks.py, which does the same alone and compares.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitpe.launch import read_launch
from vitpe.training.muon import BatchedMuon
from vitpe.training.workers import Workers, joined

SHAPES = ((48, 16), (16, 16), (64, 16), (16, 64), (48, 16), (16, 16), (24, 40))
FEW = SHAPES[:1]
"""Fewer matrices than workers: some have nothing to do."""


def train_by_muon(workers: Workers, shapes: Sequence[tuple[int, int]], nesterov: bool = True) -> dict[str, Tensor]:
    """Weights and states after some updates with gradients that are the same for all."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    muon = BatchedMuon(weights, workers, lr=0.02, weight_decay=0.1, nesterov=nesterov)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        muon.step()
    made = {f"weight {number}": weight.detach() for number, weight in enumerate(weights)}
    return made | {f"state {number}": muon.state[weight]["momentum_buffer"] for number, weight in enumerate(weights)}


def do_all(workers: Workers) -> dict[str, Tensor]:
    """What is compared, by name."""
    done = {
        "many": train_by_muon(workers, SHAPES),
        "few": train_by_muon(workers, FEW),
        "plain momentum": train_by_muon(workers, SHAPES, nesterov=False),
    }
    return {f"{what}: {name}": value for what, values in done.items() for name, value in values.items()}


def main() -> None:
    with joined(read_launch(), print) as workers:
        save_file(do_all(workers), Path(sys.argv[1]) / f"{workers.rank}.safetensors")


if __name__ == "__main__":
    main()
