"""Runs vitpe's commands on the no-op GPU in this process: python -m tests.noop_gpu '{NAME: {arguments, free_bytes}}'.

What they left is written into ran-RANK.json of the current folder; see `tests.noop_gpu.run`.
"""

import ctypes
import gc
import json
import os
import sys
import traceback
from pathlib import Path

import torch

from tests.helpers.in_process import call_vitpe

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


def main() -> None:
    torch.backends.cudnn.enabled = False  # its functions are not those of the no-op GPU
    torch.backends.cuda.enable_cudnn_sdp(False)
    rank = os.environ.get("RANK", "0")
    ran = {}
    for name, command in json.loads(sys.argv[1]).items():
        gc.collect()  # what the command before has left
        GPU.noop_gpu_leave(ALL_MEMORY if command["free_bytes"] is None else command["free_bytes"])
        before = counts()
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
        }
    Path(f"ran-{rank}.json").write_text(json.dumps(ran))
    os._exit(0)  # what the libraries do at exit is not covered


if __name__ == "__main__":
    main()
