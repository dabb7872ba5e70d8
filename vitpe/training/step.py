"""One update: a batch → new weights. Forward, loss, backward, optimizers, averaged weights.

Where the batch is computed in parts, each has its share of the loss, and gradients add up: the update is that of the
whole, but for rounding, while what a backward pass needs is kept of one part at a time.

All that changes from step to step is put into tensors first; what follows takes no arguments, asks for no number back
and draws nothing. So a GPU can be given all of it at once (see vitpe.training.graph), and a CPU does the same.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitpe.data.batch import Batch
from vitpe.model.vit import VisionTransformer
from vitpe.training.graph import NUM_WARM_UPS, CapturedOrNot
from vitpe.training.optimizer import ExponentialMovingAverage, Optimizers


class TrainStep:
    """Updates the weights of `model`, a batch at a time.

    loss_sum: the sum of all batches' mean losses, a tensor that stays on the device: reading it would wait for a GPU.
    """

    def __init__(
        self,
        model: VisionTransformer,
        forward: nn.Module,
        optimizers: Optimizers,
        average: ExponentialMovingAverage | None,
        loss_sum: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        micro_batch_size: int | None = None,
    ) -> None:
        """forward: images and numbers of kept patches → logits, of `model` however it is wrapped. loss: logits and
        labels (B, A) → their mean loss. micro_batch_size: images that go through forward at once; None for all of a
        batch.
        """
        self._model, self._forward = model, forward
        self._optimizers, self._average = optimizers, average
        self._loss_sum, self._loss = loss_sum, loss
        self._micro_batch_size = micro_batch_size
        self._batch: Batch | None = None
        self._captured: CapturedOrNot | None = None

    def capture(self, tell: Callable[[str], None], world_size: int = 1) -> None:
        """From now on batches are copied into tensors of their own, and a GPU is given the step as one graph."""
        self._captured = CapturedOrNot(self._compute, self._clear, tell, world_size)

    @property
    def num_slow(self) -> int:
        """How many of the first updates allocate, compile and capture, and so take longer than the others."""
        return NUM_WARM_UPS if self._captured is None else self._captured.num_warm_ups + 1

    def __call__(self, batch: Batch, step: int, factor: float) -> None:
        """The update at `step` (0-based), at `factor` times the peak learning rates."""
        if self._captured is None:
            self._batch = batch
        elif self._batch is None:
            self._batch = batch.clone()
        else:
            for name, value in batch.tensors.items():
                self._batch.tensors[name].copy_(value)
        self._optimizers.set_rates(factor)
        if self._average is not None:
            self._average.set_step(step)
        (self._captured or self._compute)()

    def _compute(self) -> None:
        batch = self._batch
        assert batch is not None
        whole = len(batch)
        *parts, last = batch.split(self._micro_batch_size or whole)
        with self._gradients_kept_apart():
            for part in parts:
                self._backward(part, whole)
        self._backward(last, whole)
        self._optimizers.step()
        if self._average is not None:
            self._average.update()

    def _backward(self, part: Batch, whole: int) -> None:
        """Add the gradients of the part's share of the mean loss of `whole` images."""
        self._model.set_depth_draws(part.depth)
        mean = self._loss(self._forward(part.images, part.keep), part.labels)
        loss = mean * (len(part) / whole)
        loss.backward()  # type: ignore[no-untyped-call]
        self._loss_sum += loss.detach()

    def _gradients_kept_apart(self) -> AbstractContextManager[object]:
        """Within, workers do not yet average their gradients: once is enough for all parts."""
        forward = self._forward
        return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()

    def _clear(self) -> None:
        self._model.zero_grad(set_to_none=True)
        self._optimizers.zero_grad()
