"""Muon for GPUs and for several workers: the matrices of one shape go through each product together, and each worker
has a part of them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon

from vitpe.training.workers import ALONE, Workers


class BatchedMuon(Muon):
    """torch.optim.Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) with the same state and, but for
    rounding, the same updates.

    torch goes from matrix to matrix: for 8 blocks of width 512 some 750 kernels a step, each too small to fill a GPU.
    Here it is some 100 large ones. Of several workers, each orthogonalises a part of the matrices and gives the others
    what comes out, in bfloat16 as it is. For one worker on a CPU it gains nothing.
    """

    def __init__(self, params: Iterable[Tensor], workers: Workers = ALONE, **options: Any) -> None:
        """workers: with whom the work is shared; all must have the same gradients. options: those of Muon."""
        super().__init__(params, **options)
        self._workers = workers

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update; a closure is not supported."""
        if closure is not None:
            raise NotImplementedError("a closure")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        parts = shared([(len(parameter), parameter.shape[1]) for parameter in parameters], self._workers.world_size)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        mine = parts[self._workers.rank]
        directions = [buffers[number] for number in mine]
        if group["nesterov"] and mine:
            directions = list(
                torch._foreach_lerp([gradients[number] for number in mine], directions, group["momentum"])
            )
        in_parts = [[parameters[number] for number in part] for part in parts]
        updates = self._gather(_orthogonalized(directions, group), in_parts)
        updated = list(chain(*in_parts))
        torch._foreach_mul_(updates, [-math.sqrt(max(1, len(update) / update.shape[1])) for update in updates])
        torch._foreach_mul_(updates, group["lr"])  # a tensor, perhaps, which a captured step reads anew
        torch._foreach_mul_(updated, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(updated, updates)

    def _gather(self, mine: list[Tensor], parts: list[list[Tensor]]) -> list[Tensor]:
        """All workers' matrices, part after part, as float32. mine: those of this one, flat. parts: for each worker
        what has the shapes of its matrices.
        """
        lengths = [sum(matrix.numel() for matrix in part) for part in parts]
        like = next(chain(*parts))
        rest = like.new_zeros(max(lengths) - lengths[self._workers.rank], dtype=torch.bfloat16)
        # All in one tensor of one type: of others torch would have a kernel for each.
        rows = self._workers.all_gather(torch.cat([*mine, rest])).float()
        return [
            values.view_as(matrix)
            for row, length, part in zip(rows, lengths, parts, strict=True)
            for values, matrix in zip(row[:length].split([matrix.numel() for matrix in part]), part, strict=True)
        ]

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _orthogonalized(directions: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """directions: those of one shape next to each other, which go through each product together. → the same flat, all
    of one shape in one tensor.
    """
    return [
        orthogonalize(torch.stack(list(same)), group["ns_coefficients"], group["ns_steps"], group["eps"]).flatten()
        for _, same in groupby(directions, lambda direction: direction.shape)
    ]


def shared(shapes: Sequence[tuple[int, int]], world_size: int) -> list[list[int]]:
    """The numbers of the matrices that each worker orthogonalises, those of one shape next to each other.

    The costliest first, each goes to the worker that has least to do (Graham 1969, "Bounds on multiprocessing timing
    anomalies"): none has more than 4/3 of what the best division would give the busiest.
    """
    parts: list[list[int]] = [[] for _ in range(world_size)]
    costs = [0] * world_size
    for number in sorted(range(len(shapes)), key=lambda number: (-num_operations(shapes[number]), shapes[number])):
        least = costs.index(min(costs))
        parts[least].append(number)
        costs[least] += num_operations(shapes[number])
    return parts


def num_operations(shape: tuple[int, int], num_steps: int = 5) -> int:
    """Floating-point operations of `orthogonalize` for one matrix: a step takes two products of a short by a long side
    and one of the short side alone.
    """
    short, long = sorted(shape)
    return num_steps * (4 * short**2 * long + 2 * short**3)


def orthogonalize(matrices: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float) -> Tensor:
    """(n, rows, columns) → bfloat16 of the same shape, each matrix about U Vᵀ of its singular value decomposition: the
    Newton–Schulz iteration of torch.optim.Muon, batched.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
