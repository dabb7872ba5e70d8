"""The patch projection trained in coordinates in which the pixels of a patch are uncorrelated.

Neighbouring pixels are nearly equal: brightness alone varies ten thousand times as much as fine detail, so a gradient
step that is right for the one is far too small for the other (LeCun et al. 1998, "Efficient BackProp", section 4.3).
The model and its weights stay as they are; only the update is computed in whitened coordinates and carried back. What
it is worth, and what else was tried, stands in vitpe/presets.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

NUM_IMAGES: Final = 512
"""Of the training split that the coordinates are measured on: 73,000 patches of 208 × 176 pixels."""
_MAX_COMPONENTS: Final = 256
_FLOOR: Final = 1e-3  # of the largest variance: directions that vary less are mostly noise, not to be blown up


@dataclass(frozen=True)
class Whitening:
    """mean: (X,) of the normalised patches, X = C·P·P. basis: (K, X), the principal directions divided by the standard
    deviation along them, so that basis @ (patch - mean) holds K uncorrelated numbers of variance 1 at most.
    """

    mean: Tensor
    basis: Tensor

    @staticmethod
    def measure(patches: Iterable[Tensor]) -> "Whitening":
        """From normalised patches, (M, X) at a time."""
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for part in patches:
            count += len(part)
            total = total + part.double().sum(dim=0)
            products = products + (part.T @ part).double()
        mean = total / count
        variances, directions = torch.linalg.eigh(products / count - mean.outer(mean))
        variances, directions = variances.flip(0)[:_MAX_COMPONENTS], directions.flip(1)[:, :_MAX_COMPONENTS]
        basis = (directions / (variances.clamp(min=0) + _FLOOR * variances[0]).sqrt()).T
        return Whitening(mean.float(), basis.float().contiguous())

    @staticmethod
    def expected(num_values: int) -> dict[str, Tensor]:
        """The names and shapes of `tensors` for patches of X = num_values numbers."""
        components = min(num_values, _MAX_COMPONENTS)
        return {"mean": torch.zeros(num_values), "basis": torch.zeros(components, num_values)}

    def tensors(self) -> dict[str, Tensor]:
        """mean and basis, by name."""
        return {"mean": self.mean, "basis": self.basis}

    def to(self, device: torch.device) -> "Whitening":
        """The same on a device."""
        return Whitening(self.mean.to(device), self.basis.to(device))


class WhitenedUpdates:
    """Lets an optimizer update a patch projection in whitened coordinates.

    With weights V and bias c there, the projection is V · basis · (patch - mean) + c. The optimizer owns `change`, what
    it adds to V in a step, and the projection's bias, whose gradient is that of c.
    """

    def __init__(self, projection: nn.Conv2d, whitening: Whitening) -> None:
        self.weight = projection.weight
        self.bias = projection.bias
        self.whitening = whitening
        self.change = nn.Parameter(whitening.basis.new_zeros(len(projection.weight), len(whitening.basis)))

    @torch.no_grad()
    def begin(self) -> None:
        """Before the optimizer's step: the gradient in whitened coordinates, by the chain rule."""
        assert self.weight.grad is not None and self.bias is not None and self.bias.grad is not None
        gradient = torch.addr(self.weight.grad.flatten(1), self.bias.grad, self.whitening.mean, alpha=-1)
        self.change.grad = gradient @ self.whitening.basis.T
        self.weight.grad = None

    @torch.no_grad()
    def end(self) -> None:
        """After it: the change, carried back to pixels."""
        assert self.bias is not None
        change = self.change @ self.whitening.basis
        self.weight += change.view_as(self.weight)
        self.bias -= change @ self.whitening.mean
        self.change.zero_()
