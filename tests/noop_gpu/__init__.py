"""vitpe's whole command on a GPU that computes nothing, so that what only a GPU's users would meet is met here.

noop_gpu.c stands in for the CUDA runtime and driver, cuBLAS and NCCL. Memory of the device is memory of the host,
copies copy, kernels (Triton's too) are counted and do nothing. So launches, copies, synchronisation, compilation with
Triton and ptxas, memory that runs out, several devices and several workers are the real ones, as far as torch knows.

Not covered: any computed number, speed, cuDNN (which is off), real communication between workers, and races of streams.
"""

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import Finished, run_python


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, stdout, stderr, how often the GPU was asked for what ("launch", "blas", …; see
    noop_gpu.c), and how often for which kernel. step_ends: the training thread's processor time, in seconds, when it
    had given the GPU each step. peak_bytes: of tensors on the first GPU at once, where torch keeps what is freed.
    """

    code: int
    stdout: str
    stderr: str
    counts: Mapping[str, int]
    kernels: Mapping[str, int]
    step_ends: Sequence[float]
    peak_bytes: int


@dataclass(frozen=True)
class Command:
    """`vitpe ARGUMENTS`; with free_bytes the GPU has only so much memory left."""

    arguments: Sequence[str | Path]
    free_bytes: int | None = None


def unavailable() -> str | None:
    """Why there is no such GPU here, None where there is."""
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        return "the no-op GPU is for Linux on x86-64"
    if shutil.which("cc") is None:
        return "the no-op GPU needs a C compiler"
    return None if _headers() else "the no-op GPU needs CUDA's headers, which torch's wheels for CUDA bring"


def build(folder: Path) -> Path:
    """Compile the library into `folder`."""
    library = folder / "libcuda.so.1"
    source = Path(__file__).with_name("noop_gpu.c")
    command = ["cc", "-shared", "-fPIC", "-O2", "-w", f"-I{_headers()}", source, "-o", library, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return library


def run(
    library: Path,
    commands: Mapping[str, Command],
    folder: Path,
    *,
    workers: int = 1,
    **environment: str,
) -> list[dict[str, Ran]]:
    """Run the commands one after the other in one process, or in `workers` that torchrun starts, in `folder`.

    Returns what each left, for each worker.
    """
    asked = {name: {"arguments": [*map(str, c.arguments)], "free_bytes": c.free_bytes} for name, c in commands.items()}
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"] if workers > 1 else []
    done: Finished = run_python(
        *torchrun,
        *("-m", "tests.noop_gpu", json.dumps(asked)),
        cwd=folder,
        timeout=600,
        LD_PRELOAD=str(library),
        LD_LIBRARY_PATH=str(library.parent),
        TRITON_LIBCUDA_PATH=str(library.parent),
        PYTORCH_NO_CUDA_MEMORY_CACHING="1",  # so that all memory is new: zeros, where kernels write nothing
        **environment,
    )
    results = [folder / f"ran-{rank}.json" for rank in range(workers)]
    assert all(path.exists() for path in results), done.stderr
    return [{name: Ran(**ran) for name, ran in json.loads(path.read_text()).items()} for path in results]


def _headers() -> Path | None:
    """The folder of cuda.h and of what the runtime's headers need."""
    site = Path(sysconfig.get_paths()["purelib"])
    found = (path for path in site.glob("*/**/crt/host_defines.h") if (path.parents[1] / "cuda.h").exists())
    return next((path.parents[1] for path in found), None)
