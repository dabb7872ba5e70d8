"""`vitpe ARGUMENTS` as one of several workers, to one of which something happens after a step.

python -m tests.helpers.distributed_worker WHAT RANK STEP ARGUMENTS
"""

import os
import resource
import signal
import sys

import torch

from vitpe.__main__ import main
from vitpe.cli.progress import TrainReporter
from vitpe.training import heartbeat


def happen(what: str) -> None:
    """What one worker suffers."""
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "asked to end":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # no file may grow beyond it, as if the disk were full
    elif what == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory")
    elif what == "bug":
        raise ZeroDivisionError("ours")


def patch(what: str, rank: str, step: str) -> None:
    """Let it happen to worker `rank` when it has done `step`."""
    plain = TrainReporter.progress

    def progress(self, at: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        plain(self, at, num_steps, loss, images_per_second)
        if os.environ["RANK"] == rank and at == int(step):
            happen(what)

    TrainReporter.progress = progress


if __name__ == "__main__":
    heartbeat.PATIENCE_SECONDS = float(os.environ.get("PATIENCE", heartbeat.PATIENCE_SECONDS))
    patch(*sys.argv[1:4])
    sys.argv = ["vitpe", *sys.argv[4:]]
    main()
