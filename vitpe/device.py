"""Which device computes."""

import torch

from vitpe.errors import UsageError
from vitpe.files import provide_temporary_folder
from vitpe.launch import read_launch


def select_device(name: str | None) -> torch.device:
    """The named device ("cpu", "cuda", "cuda:1", "mps"), or the best there is for None.

    "cuda" is the first GPU, and of several workers each one's own.
    Raises UsageError for a device that is unknown or not there.
    """
    provide_temporary_folder()
    available = _available()
    if name is None:
        name = available[0]
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", f"this machine has {', '.join(available)}") from error
    if device.type not in available:
        raise UsageError(f"no device {name!r} here", f"this machine has {', '.join(available)}")
    if device.type == "cuda":
        index = read_launch().local_rank if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise UsageError(f"no device 'cuda:{index}' here", f"this machine has {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """For people: the GPU's name, or how many threads the CPU works with."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def free_gpu_bytes(device: torch.device) -> int:
    """What new tensors may take: what the GPU has free, and what torch holds of it unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def computes_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies in bfloat16 by itself, and so faster than in float32: GPUs since compute capability 8.0,
    and CPUs with AMX or AVX-512's own instructions. Others emulate it. A GPU must be this thread's current one.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    on_cpu = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and on_cpu


def check_bfloat16(device: torch.device) -> None:
    """UsageError for a device that only emulates bfloat16."""
    if not computes_bfloat16(device):
        raise UsageError(f"{device} has no bfloat16", "leave --precision out, which means fp32")


def _available() -> list[str]:
    """Best first."""
    devices = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]
