"""The training forward pass: uint8 images → float32 logits, in the fastest precision, compiled where it pays."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vitpe.config import TrainConfig
from vitpe.data.images import normalize
from vitpe.model.vit import VisionTransformer

MIN_IMAGES_TO_COMPILE = 20_000
"""On a CPU compiling takes about 15 s, which a shorter run would not win back."""


class TrainForward(nn.Module):
    """Normalises the images and runs the model; `weights_dtype` bfloat16 runs it on bfloat16 copies of the weights,
    while the weights themselves, their gradients and the optimizer's state stay float32.
    """

    def __init__(self, model: VisionTransformer, mean: Sequence[float], std: Sequence[float], precision: str) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std, self.precision = mean, std, precision

    def forward(self, images: Tensor, keep: Tensor | None) -> Tensor:
        """images: uint8 (B, C, H, W). keep: (B, K) patch numbers or None. Returns float32 logits (B, A)."""
        values = normalize(images, self.mean, self.std)
        if self.precision == "fp32":
            logits: Tensor = self.model(values, keep)
        elif images.device.type == "cpu":
            # Casting each weight once is faster than autocast, which casts at every product.
            weights = {name: value.bfloat16() for name, value in self.model.named_parameters()}
            logits = torch.func.functional_call(self.model, weights, (values.bfloat16(), keep))
        else:
            with torch.autocast(images.device.type, torch.bfloat16):
                logits = self.model(values, keep)
        return logits.float()


class CompiledOrNot(nn.Module):
    """torch.compile of `forward`; when the first call cannot compile (say, no C++ compiler) it runs as it is."""

    def __init__(self, forward: nn.Module, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.plain = forward
        self._compiled: Callable[..., Tensor] | None = torch.compile(forward)
        self._tell = tell

    def forward(self, images: Tensor, keep: Tensor | None) -> Tensor:
        """As the plain module."""
        if self._compiled is not None:
            try:
                return self._compiled(images, keep)
            except Exception as error:
                if "torch._dynamo" not in type(error).__module__ and "torch._inductor" not in type(error).__module__:
                    raise
                self._compiled = None
                self._tell(f"torch.compile failed ({' '.join(str(error).split())[:80]}); going on without it")
        out: Tensor = self.plain(images, keep)
        return out


def choose_precision(config: TrainConfig, device: torch.device) -> str:
    """ "bf16" on CUDA and on CPUs with bfloat16 matrix units (AMX), else "fp32"."""
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16"
    return "bf16" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "fp32"


def choose_compile(config: TrainConfig, device: torch.device, num_images: int) -> bool:
    """Whether to compile a run over `num_images`."""
    if config.compile != "auto":
        return config.compile == "on"
    return device.type == "cuda" or (device.type == "cpu" and num_images >= MIN_IMAGES_TO_COMPILE)


def random_patches(step_generator: torch.Generator, batch_size: int, num_patches: int, share: float) -> Tensor:
    """(B, K) distinct patch numbers for each image, K = share · N rounded, at least 1, in random order."""
    kept = max(1, round(share * num_patches))
    return torch.rand(batch_size, num_patches, generator=step_generator).argsort(dim=1)[:, :kept]
