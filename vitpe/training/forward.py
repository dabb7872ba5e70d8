"""The training forward pass: uint8 images → float32 logits, in the fastest precision, compiled where it pays."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from vitpe.config import TrainConfig
from vitpe.device import computes_bfloat16
from vitpe.model.inputs import PixelClassifier
from vitpe.model.vit import VisionTransformer

_OPERATIONS_TO_COMPILE: Final = 5e11


class TrainForward(PixelClassifier):
    """In training: precision "bf16" runs the model on bfloat16 copies of the weights, under autocast on GPUs, while the
    weights themselves, their gradients and the optimizer's state stay float32.
    """

    def __init__(self, model: VisionTransformer, mean: Sequence[float], std: Sequence[float], precision: str) -> None:
        super().__init__(model, mean, std)
        self.precision = precision

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """As PixelClassifier's."""
        if self.precision == "fp32":
            return super().forward(images, keep)
        if images.device.type != "cpu":
            with torch.autocast(images.device.type, torch.bfloat16):
                return super().forward(images, keep)
        # Casting each weight once is faster than autocast, which casts at every product.
        weights = {name: value.bfloat16() for name, value in self.model.named_parameters()}
        logits: Tensor = torch.func.functional_call(self.model, weights, (images, keep, self._normalize_to_bfloat16))
        return logits.float()

    def _normalize_to_bfloat16(self, patches: Tensor) -> Tensor:
        values: Tensor = self.normalize(patches)
        return values.bfloat16()


class CompiledOrNot(nn.Module):
    """torch.compile of `forward`; where that fails (say, no C++ compiler) it runs as it is."""

    def __init__(self, forward: nn.Module, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.plain = forward
        self._compiled: Callable[..., Tensor] | None = torch.compile(forward)
        self._tried = False
        self._tell = tell

    def forward(self, images: Tensor, keep: Tensor | None) -> Tensor:
        """As the plain module."""
        if self._compiled is not None and not self._tried:
            self._tried = True
            try:
                self._try(self._compiled, images, keep)
            except Exception as error:
                if "torch._dynamo" not in type(error).__module__ and "torch._inductor" not in type(error).__module__:
                    raise
                self._compiled = None
                self._tell(f"torch.compile failed ({' '.join(str(error).split())[:80]}); going on without it")
        # (`or` would ask a compiled module for its truth, and so for its length, which it does not have.)
        run = self.plain if self._compiled is None else self._compiled
        out: Tensor = run(images, keep)
        return out

    def _try(self, compiled: Callable[..., Tensor], images: Tensor, keep: Tensor | None) -> None:
        """Compile forward and backward, which would else fail in the middle of a step; leaves no gradient, no draw."""
        weights = [parameter for parameter in self.plain.parameters() if parameter.requires_grad]
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.autograd.grad(compiled(images, keep).sum(), weights)


def choose_precision(config: TrainConfig, device: torch.device) -> str:
    """ "bf16" on devices that compute with it (on CPUs with AMX a training step then takes 0.4 of its time in float32,
    with AVX-512 0.57), else "fp32".
    """
    if config.precision != "auto":
        return config.precision
    return "bf16" if computes_bfloat16(device) else "fp32"


def choose_compile(config: TrainConfig, device: torch.device, operations: float) -> bool:
    """Whether to compile a training step of so many floating-point operations: on a GPU that has enough to compute.

    A step is some five hundred calls of the GPU, each of which takes microseconds to launch. In the presets tiny and
    laptop (2e10 and 9e10 operations) the GPU waits for these launches, and compiling still leaves four of five. From
    small on (2e12 and more) the launches wait for the GPU, whose memory traffic compiling saves. On CPUs a tenth more
    images a second does not win back the minutes that compiling can take.
    """
    pays = device.type == "cuda" and operations >= _OPERATIONS_TO_COMPILE
    return config.compile == "on" or (config.compile == "auto" and pays)
