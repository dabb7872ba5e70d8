"""Runs vitpe's commands on the no-op GPU in this process: python -m tests.noop_gpu '{NAME: {arguments, free_bytes}}'.

What they left is written into ran-RANK.json of the current folder; see `tests.noop_gpu.run`.
"""

import ctypes
import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path

if "NOOP_GPU_ZEROS" in os.environ:  # nothing has to be new memory: let torch keep what is freed, as it does for users
    del os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"]

import torch

from tests.helpers.in_process import call_vitpe
from vitpe.training.step import TrainStep

GPU = ctypes.CDLL(os.environ["LD_PRELOAD"])
GPU.noop_gpu_count.restype = ctypes.c_long
GPU.noop_gpu_count_name.restype = ctypes.c_char_p
GPU.noop_gpu_leave.argtypes = [ctypes.c_size_t]
ALL_MEMORY = 80 << 30


def counts() -> dict[str, int]:
    found: dict[str, int] = {}
    while name := GPU.noop_gpu_count_name(len(found)):
        found[name.decode()] = GPU.noop_gpu_count(len(found))
    return found


def kernels(path: Path) -> dict[str, int]:
    """Those launched since the last call."""
    GPU.noop_gpu_write_kernels(str(path).encode())
    lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
    path.unlink()
    return {name: int(count) for count, name in lines}


def note_step_ends() -> list[float]:
    """A list that gets the training thread's processor time, in seconds, whenever it has given the GPU a step."""
    ends: list[float] = []
    plain = TrainStep.__call__

    def call(self: TrainStep, *arguments: object) -> None:
        plain(self, *arguments)  # type: ignore[arg-type]
        ends.append(time.thread_time())

    TrainStep.__call__ = call  # type: ignore[assignment, method-assign]
    return ends


def main() -> None:
    step_ends = note_step_ends()
    torch.backends.cudnn.enabled = False  # its functions are not those of the no-op GPU
    torch.backends.cuda.enable_cudnn_sdp(False)
    rank = os.environ.get("RANK", "0")
    ran = {}
    for name, command in json.loads(sys.argv[1]).items():
        gc.collect()  # what the command before has left
        GPU.noop_gpu_leave(ALL_MEMORY if command["free_bytes"] is None else command["free_bytes"])
        before = counts()
        step_ends.clear()
        torch.cuda.reset_peak_memory_stats()
        try:
            called = call_vitpe(*command["arguments"])
            code, stdout, stderr = called.code, called.stdout, called.stderr
        except BaseException:
            code, stdout, stderr = 99, "", traceback.format_exc()
        ran[name] = {
            "code": code,
            "stdout": stdout,
            "stderr": stderr,
            "counts": {key: count - before[key] for key, count in counts().items()},
            "kernels": kernels(Path(f"kernels-{rank}")),
            "step_ends": step_ends[:],
            "peak_bytes": torch.cuda.max_memory_allocated(),
        }
    Path(f"ran-{rank}.json").write_text(json.dumps(ran))
    os._exit(0)  # what the libraries do at exit is not covered


if __name__ == "__main__":
    main()
