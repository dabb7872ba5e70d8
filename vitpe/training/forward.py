"""The training forward pass: uint8 patches → float32 logits, in the fastest precision, compiled where it pays."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from vitpe.config import TrainConfig
from vitpe.device import computes_bfloat16
from vitpe.model.vit import VisionTransformer

_OPERATIONS_TO_COMPILE: Final = 5e11


class TrainForward(nn.Module):
    """Normalises the patches and runs the model; `weights_dtype` bfloat16 runs it on bfloat16 copies of the weights,
    while the weights themselves, their gradients and the optimizer's state stay float32.
    """

    def __init__(self, model: VisionTransformer, mean: Sequence[float], std: Sequence[float], precision: str) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        # Per number of a patch, whose order is channel, row, column. They never change, so they are no buffers: those
        # are sent around among workers at each step.
        pixels, device = model.patch_size**2, model.pos_embed.device
        self.scale = torch.tensor([1 / (255 * s) for s in std]).repeat_interleave(pixels).to(device)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).repeat_interleave(pixels).to(device)

    def forward(self, patches: Tensor, keep: Tensor | None) -> Tensor:
        """patches: uint8, those `needed` for the numbers `keep` (B, K), None for all. Returns float32 logits (B, A)."""
        values = torch.addcmul(self.shift, patches.float(), self.scale)
        if self.precision == "fp32":
            logits: Tensor = self.model(values, keep)
        elif patches.device.type == "cpu":
            # Casting each weight once is faster than autocast, which casts at every product.
            weights = {name: value.bfloat16() for name, value in self.model.named_parameters()}
            logits = torch.func.functional_call(self.model, weights, (values.bfloat16(), keep))
        else:
            with torch.autocast(patches.device.type, torch.bfloat16):
                logits = self.model(values, keep)
        return logits.float()


class CompiledOrNot(nn.Module):
    """torch.compile of `forward`; where that fails (say, no C++ compiler) it runs as it is."""

    def __init__(self, forward: nn.Module, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.plain = forward
        self._compiled: Callable[..., Tensor] | None = torch.compile(forward)
        self._tried = False
        self._tell = tell

    def forward(self, patches: Tensor, keep: Tensor | None) -> Tensor:
        """As the plain module."""
        if self._compiled is not None and not self._tried:
            self._tried = True
            try:
                self._try(self._compiled, patches, keep)
            except Exception as error:
                if "torch._dynamo" not in type(error).__module__ and "torch._inductor" not in type(error).__module__:
                    raise
                self._compiled = None
                self._tell(f"torch.compile failed ({' '.join(str(error).split())[:80]}); going on without it")
        # (`or` would ask a compiled module for its truth, and so for its length, which it does not have.)
        run = self.plain if self._compiled is None else self._compiled
        out: Tensor = run(patches, keep)
        return out

    def _try(self, compiled: Callable[..., Tensor], patches: Tensor, keep: Tensor | None) -> None:
        """Compile forward and backward, which would else fail in the middle of a step; leaves no gradient, no draw."""
        weights = [parameter for parameter in self.plain.parameters() if parameter.requires_grad]
        with torch.random.fork_rng([patches.device] if patches.is_cuda else []):
            torch.autograd.grad(compiled(patches, keep).sum(), weights)


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
