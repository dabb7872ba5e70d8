"""What torchrun starts in tests: a tiny run in which one worker dies after a step, as if its machine had.

torchrun --nproc-per-node 2 -m tests.distributed_worker DATA FOLDER STEP VALUES
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from tests.helpers import Recorder, tiny_config
from vitpe.errors import VitpeError
from vitpe.training.run import train


class Dying(Recorder):
    """Rank 1 is killed after the step."""

    at = 0

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        if step == self.at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)


def main(data: str, folder: str, step: str, values: str) -> int:
    reporter = Dying()
    reporter.at = int(step)
    try:
        train(tiny_config(data, **json.loads(values)), Path(folder), torch.device("cpu"), reporter)
    except VitpeError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
