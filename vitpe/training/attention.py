"""Which of torch's kernels of attention a GPU trains with: the fastest at the model's own shapes, as timed there."""

import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitpe.model.vit import attend

_KERNELS: Final = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
KERNELS: Final = ("", *_KERNELS)
"""Their names; "" for whatever torch chooses."""
_NUM_TIMED: Final = 7
_CALLS: Final = 4  # timed together, so that the clock's ticks count little


def fastest_attention(
    batch_size: int, num_tokens: int, num_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> str:
    """The one of KERNELS that takes the least time forwards and backwards; "" where there is none to choose: not on a
    GPU, or where none takes such heads in this type.
    """
    if device.type != "cuda":
        return ""
    shape = (batch_size, num_tokens, 3, num_heads, head_dim)
    qkv = torch.randn(shape, device=device).to(dtype).requires_grad_()
    times = {name: _milliseconds(kernel, qkv) for name, kernel in _allowed().items()}
    return min((name for name in times if times[name] < float("inf")), key=times.__getitem__, default="")


@contextmanager
def preferring(name: str) -> Iterator[None]:
    """Within, attention runs by this one of KERNELS where it can, else by another."""
    if not name:
        yield
        return
    others = [kernel for other, kernel in _allowed().items() if other != name]
    with sdpa_kernel([_KERNELS[name], *others, SDPBackend.MATH], set_priority=True):
        yield


def _allowed() -> dict[str, SDPBackend]:
    """Those that the user has not turned off in torch."""
    switches = torch.backends.cuda
    on = (switches.flash_sdp_enabled(), switches.cudnn_sdp_enabled(), switches.mem_efficient_sdp_enabled())  # type: ignore[no-untyped-call]
    return {name: kernel for (name, kernel), is_on in zip(_KERNELS.items(), on, strict=True) if is_on}


def _milliseconds(kernel: SDPBackend, qkv: Tensor) -> float:
    """Of forward and backward, the median of some; infinite where the kernel takes no such tensors."""

    def run() -> None:
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(dim=2))
        attend(q, k, v).sum().backward()  # type: ignore[no-untyped-call]

    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    times: list[float] = []
    with sdpa_kernel(kernel), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reasons why a kernel cannot be used
        try:
            run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return float("inf")
        for _ in range(_NUM_TIMED):
            began.record()
            for _ in range(_CALLS):
                run()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended) / _CALLS)
    return statistics.median(times)
