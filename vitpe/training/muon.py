"""Muon for GPUs: the matrices of one shape go through each product together."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon


class BatchedMuon(Muon):
    """torch.optim.Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) with the same state and, but for
    rounding, the same updates.

    torch goes from matrix to matrix: for 8 blocks of width 512 some 750 kernels a step, each too small to fill a GPU.
    Here it is some 100 large ones. On CPUs it gains nothing.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update; a closure is not supported."""
        if closure is not None:
            raise NotImplementedError("a closure")
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """parameters: of one shape."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
        updates = orthogonalize(
            torch.stack(tuple(directions)), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        rows, columns = parameters[0].shape
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = group["lr"] * math.sqrt(max(1, rows / columns))
        # One type and one layout for all, or there would be a kernel for each. The rate may be a tensor.
        torch._foreach_add_(parameters, updates.to(parameters[0].dtype).contiguous().mul_(-scale).unbind())

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


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
