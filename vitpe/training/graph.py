"""A training step as one CUDA graph: the host asks the GPU once for what are hundreds of calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from vitpe.text import brief

NUM_WARM_UPS: Final = 3
_NUM_DISTRIBUTED_WARM_UPS: Final = 11
"""As torch's notes on CUDA graphs ask for: until DistributedDataParallel has chosen its buckets and timed itself."""


class CapturedOrNot:
    """Does `work` each time it is called: the first times as it is, then as a CUDA graph of it.

    A graph repeats what the GPU was asked for: `work` takes no arguments and gives nothing back, all that changes from
    call to call lies in tensors that stay where they are, and it decides nothing by what it computed.
    """

    def __init__(
        self, work: Callable[[], None], give_up: Callable[[], None], tell: Callable[[str], None], world_size: int = 1
    ) -> None:
        """give_up: clears away what a capture that failed has left, of which nothing was computed. tell: one line for
        the user then.
        """
        self._work, self._give_up, self._tell = work, give_up, tell
        self.num_warm_ups = NUM_WARM_UPS if world_size == 1 else _NUM_DISTRIBUTED_WARM_UPS
        self._warm_ups_left = self.num_warm_ups
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False

    def __call__(self) -> None:
        """Work once, in the current stream, which must not be the GPU's default one."""
        if self._graph is None and not self._failed and not self._warm_ups_left:
            self._graph = self._capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._work()
            self._warm_ups_left = max(0, self._warm_ups_left - 1)

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            # Of this thread alone: those that prepare the next batches may allocate and copy meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._work()
        except RuntimeError as error:
            self._failed = True
            self._give_up()
            self._tell(f"the step does not run as one CUDA graph ({brief(str(error))}); going on without")
            return None
        return graph


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Within, a GPU computes in a stream that can be captured, which its default one cannot; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        before.wait_stream(stream)
