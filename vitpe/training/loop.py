"""The training loop: batches → updates, a log, checkpoints, and a state to resume from.

After step t everything that follows is a function of the state and t: the data order, the crops and the random
draws of step t come from (seed, t), whatever the device. So a run that was cut and resumed ends where the uncut one
ends: bit for bit on CPUs; on GPUs the backward passes of attention and convolutions may add in an order of their own.

What a step leaves is written in this order: its row of the log, its file of the history, the state, the best
checkpoint. A state therefore finds all that came before it on disk; what lies beyond it is written again, and a best
checkpoint that is missing is made from the state of its step.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from signal import Signals
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitpe.config import TrainConfig
from vitpe.data.batches import Batches
from vitpe.errors import VitpeError
from vitpe.metrics.scores import score
from vitpe.metrics.thresholds import sigmoid
from vitpe.model.inputs import Normalize, PixelClassifier, classify
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.runs.checkpoint import check_finite, check_tensors, history_part, save_checkpoint
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import CheckpointInfo, read_info
from vitpe.runs.state import Machine, RunProgress, TrainState, save_state
from vitpe.training.attention import KERNELS, fastest_attention, preferring
from vitpe.training.background import Interrupted, StopRequest, Writer
from vitpe.training.compile import CompiledOrNot, choose_compile, use_private_cache
from vitpe.training.forward import TrainForward, choose_precision
from vitpe.training.graph import own_stream
from vitpe.training.heartbeat import STEP
from vitpe.training.loss import Loss
from vitpe.training.optimizer import ExponentialMovingAverage, Optimizers, learning_rate_factor, make_optimizers
from vitpe.training.plan import Plan
from vitpe.training.scoring import classify_together
from vitpe.training.step import TrainStep
from vitpe.training.tracking import Trackers
from vitpe.training.whitening import NUM_IMAGES, Whitening
from vitpe.training.workers import Meetings, Workers

STATE_INTERVAL_SECONDS = 60.0
_MIN_REPEATS: Final = 5
_MAX_REPEATS: Final = 1000


class Reporter(Protocol):
    """Where a run tells how it goes; the command line shows it on stderr."""

    def note(self, text: str) -> None:
        """One line that the user should know."""

    def doing(self, what: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Within, `what` is waited for; what is given is called with how many more of `total` are done."""

    def prepared(self, done: int, total: int) -> None:
        """While a split's images are decoded or drawn up front."""

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        """After a step, before it is scored; loss and speed are None between the rows of the log."""

    def scored(self, step: int, scores: dict[str, float], best: bool) -> None:
        """After a scoring on valid."""


@dataclass(frozen=True)
class RunContext:
    """What a run has beside its configuration: the folder it writes to, where it computes and with whom, whom it
    tells how it goes, what asks it to stop, and where else its numbers go.
    """

    folder: RunFolder
    device: torch.device
    workers: Workers
    reporter: Reporter
    stop: StopRequest = field(default_factory=StopRequest)
    trackers: Trackers = field(default_factory=lambda: Trackers((), lambda _: None))


class Trainer:
    """One run's model, optimizers and counters; `run` takes it from its step to the end."""

    def __init__(
        self,
        config: TrainConfig,
        model: VisionTransformer,
        info: CheckpointInfo,
        plan: Plan,
        context: RunContext,
        fingerprint: str,
    ) -> None:
        """context: its folder's identity becomes the state's. fingerprint: of the data."""
        self._config, self._info, self.plan = config, info, plan
        self._folder, self._reporter, self._stop = context.folder, context.reporter, context.stop
        self._device, self._workers, self._trackers = context.device, context.workers, context.trackers
        self._meetings = Meetings(self._workers)
        self._model = model.to(self._device)
        self._average = ExponentialMovingAverage(model, config.ema_decay) if config.ema_decay else None
        self._whitening: Whitening | None = None
        self._loss_sum = torch.zeros((), device=self._device)
        self._state_saved_at = time.monotonic()
        run_id = None if context.folder.identity is None else context.folder.identity.id
        self.progress = RunProgress(fingerprint, run_id=run_id)

    @cached_property
    def machine(self) -> Machine:
        """What this process computes on, and how. A resumed run keeps its kernel of attention on the same GPU."""
        precision = choose_precision(self._config, self._device)
        here = Machine.here(precision, self._device, self._workers.world_size)
        before = self.progress.machine
        if before is not None and replace(before, attention="") == here:
            return before
        number = KERNELS.index(self._fastest_attention(precision))
        return replace(here, attention=KERNELS[self._workers.all_max(number if self._workers.is_first else 0)[0]])

    def _fastest_attention(self, precision: str) -> str:
        model = self._info.model
        return fastest_attention(
            self._images_at_once,
            1 + round(self._config.patch_keep * model.num_patches),
            model.num_heads,
            model.head_dim,
            torch.bfloat16 if precision == "bf16" else torch.float32,
            self._device,
        )

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Within, a GPU computes in a stream of its own, by the machine's kernel of attention."""
        with preferring(self.machine.attention), own_stream(self._device):
            yield

    @cached_property
    def _optimizers(self) -> Optimizers:
        """Made when needed: torch takes seconds to import what they are built on, a finished run needs none."""
        return make_optimizers(self._model, self._config, self._whitening, self._workers)

    @property
    def step(self) -> int:
        """How many updates were done."""
        return self.progress.step

    @property
    def finished(self) -> bool:
        """Whether the plan's last step is done."""
        return self.step >= self.plan.num_steps

    def state(self) -> TrainState:
        """All that `restore` needs, copied to the CPU, so that training may go on while it is written.

        All workers must ask for it at the same step.
        """
        return TrainState(
            progress=replace(self.progress, machine=self.machine),
            model=_copies(self._model.state_dict()),
            average=_copies(self._average.tensors) if self._average is not None else {},
            optimizer=_copies(self._optimizers.state_tensors()) if self.step else {},
            whitening=_copies(self._whitening.tensors()) if self._whitening is not None else {},
            loss_sums=self._workers.all_gather(self._loss_sum.to("cpu", copy=True)),
        )

    def restore(self, state: TrainState) -> None:
        """Continue from a saved state; VitpeError when it is of another run, of other data or model, or damaged."""
        here, before = self.progress, state.progress
        if None not in (here.run_id, before.run_id) and here.run_id != before.run_id:
            raise VitpeError(
                f"{self._folder.state} is the state of another run than {self._folder.config}",
                "restore both from one copy, or start another run: --run FOLDER",
            )
        if before.fingerprint != here.fingerprint:
            raise VitpeError(
                f"the data differs from what {self._folder.path} was started with",
                "resume with the same images and labels, or start another run: --run FOLDER",
            )
        self._check(state.model, self._model.state_dict())
        self._check(state.average, self._model.state_dict() if self._average is not None else {})
        self._model.load_state_dict(state.model)
        if self._average is not None:
            self._average.load(state.average)
        same_workers = len(state.loss_sums) == self._workers.world_size
        self._loss_sum.copy_(state.loss_sums[self._workers.rank] if same_workers else state.loss_sums.mean())
        self.progress = replace(before, run_id=here.run_id)
        if not self.finished:
            self._check(state.whitening, self._expected_whitening() if self.step else {})
            if state.whitening:
                self._whitening = Whitening(**state.whitening).to(self._device)
            self._check(state.optimizer, self._optimizers.expected_state() if self.step else {})
            if self.step:  # before the first there is no optimizer: `run` measures the whitening that it is built on
                self._optimizers.load_state_tensors(state.optimizer)

    def _expected_whitening(self) -> dict[str, Tensor]:
        return Whitening.expected(self._model.patch_embed.proj.weight[0].numel()) if self._config.whiten else {}

    def _check(self, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        check_tensors(tensors, expected, self._folder.state)
        check_finite(tensors, self._folder.state)

    def complete_best(self) -> None:
        """Write the best checkpoint when the run died between the state of its step and the checkpoint itself."""
        if self.progress.best_step is None or self.progress.best_step != self.step:
            return
        try:
            complete = read_info(self._folder.best).step == self.step
        except VitpeError:
            complete = False
        if not complete:
            self._folder.write(save_checkpoint, self._folder.best, self._snapshot(), self._describe())

    def run(self, train: Batches, valid: Batches | None) -> None:
        """Train to the plan's last step. valid: what this worker scores of it, None for nothing.

        Raises Interrupted, all saved, when asked to stop, and VitpeError when a file cannot be written or
        training diverges.
        """
        with self._computing():
            self._run(train, valid)

    def _run(self, train: Batches, valid: Batches | None) -> None:
        forward = self._forward()
        if self._config.whiten and self._whitening is None:
            with self._reporter.doing("measuring what patches look like"):
                self._whitening = self._measure_whitening(train)
        update = self._make_step(forward, train.positive_share)
        clock = _Clock(train, self.step)
        writer = Writer()
        batches = train.from_step(self.step)
        waiting: AbstractContextManager[object] = self._reporter.doing(
            "the first step, which is slower than the others"
        )
        try:
            if self.step == 0:
                self._record(clock, valid, writer)
            while not self.finished:
                with self._workers.doing("loading images"):
                    batch = next(batches)
                with self._workers.doing(STEP), waiting:
                    update(batch, self.step, self._factor(self.step))
                waiting = nullcontext()
                self.progress = replace(self.progress, step=self.step + 1, num_losses=self.progress.num_losses + 1)
                self._record(clock, valid, writer)
                self._save_when_asked(writer)
        finally:
            batches.close()
            writer.close()

    def measure_seconds(self, train: Batches, valid: Batches | None, seconds: float) -> tuple[float, float]:
        """Of an update, and of scoring an image: medians of some, taken for about `seconds`. It is not to be run
        afterwards.
        """
        with self._computing():
            return self._measure_seconds(train, valid, seconds)

    def _measure_seconds(self, train: Batches, valid: Batches | None, seconds: float) -> tuple[float, float]:
        step = self._make_step(self._forward(), train.positive_share)
        updates = train.from_step(0)

        def update() -> float:
            began = time.perf_counter()
            step(next(updates), 0, self._factor(0))
            return self._elapsed(began)

        try:
            for _ in range(step.num_slow):
                last = update()
            # All workers do as many, as each update is of all together.
            slowest = self._workers.all_max(max(1, round(last * 1e9)))[0] / 1e9
            per_step = float(np.median([update() for _ in range(_as_many(slowest, seconds))]))
        finally:
            updates.close()
        if valid is None:
            return per_step, 0.0
        self._model.eval()
        classifier = PixelClassifier(self._model, self._info.mean, self._info.std)
        chunks = valid.once()
        images = next(chunks).images
        chunks.close()

        def score_chunk() -> float:
            began = time.perf_counter()
            classify(classifier, images)
            return self._elapsed(began)

        times = [score_chunk() for _ in range(_as_many(score_chunk(), seconds / 4))]
        return per_step, float(np.median(times)) / len(images)

    def _elapsed(self, began: float) -> float:
        """Seconds since `began` when all that was asked of the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - began

    def _measure_whitening(self, train: Batches) -> Whitening:
        normalize = Normalize(self._info.mean, self._info.std, self._info.model.patch_size)
        patches = (
            normalize(self._model.patchify(batch.images.cpu())).flatten(0, 1)
            for batch in train.sample(NUM_IMAGES, self._config.seed)
        )
        measured = Whitening.measure(patches).to(self._device)
        return Whitening(**{name: self._workers.broadcast(value) for name, value in measured.tensors().items()})

    def _forward(self) -> nn.Module:
        precision = choose_precision(self._config, self._device)
        forward: nn.Module = TrainForward(self._model, self._info.mean, self._info.std, precision)
        if choose_compile(self._config, self._device, self._operations()):
            use_private_cache(self._reporter.note)
            self._reporter.note("compiling the model: a minute or two")
            forward = CompiledOrNot(forward, self._reporter.note)
        return self._workers.wrap(forward)

    def _operations(self) -> float:
        """Floating-point operations of what this worker computes at once: two for each weight and token, and twice
        that in the backward pass (arXiv:2001.08361, section 2.1).
        """
        tokens = 1 + self._config.patch_keep * self._info.model.num_patches
        return 6 * num_parameters(self._model) * tokens * self._images_at_once

    @property
    def _images_at_once(self) -> int:
        return self._config.images_at_once(self.plan.batch_size // self._workers.world_size)

    def _make_step(self, forward: nn.Module, positive_share: NDArray[np.float64]) -> TrainStep:
        step = TrainStep(
            self._model,
            forward,
            self._optimizers,
            self._average,
            self._loss_sum,
            Loss.of(self._config, positive_share, self._device),
            self._config.micro_batch_size,
        )
        if self._device.type == "cuda" and self._config.cuda_graph:
            step.capture(self._reporter.note, self._workers.world_size)
        return step

    def _record(self, clock: "_Clock", valid: Batches | None, writer: Writer) -> None:
        """Write what the plan has for this step, in the order that a run is resumed by (see the module's text)."""
        step, first = self.step, self._workers.is_first
        with self._workers.doing("writing"):
            self._log(clock, valid)
            if first and step in self.plan.checkpoints:
                self._keep_checkpoint(writer)
            if step in self.plan.evals or self.finished:
                self._save_state(writer)
            if first and step == self.progress.best_step:
                self._keep_best(writer)

    def _log(self, clock: "_Clock", valid: Batches | None) -> None:
        """Tell the user how it goes, and add a row to the log where there is something to write."""
        plan, step = self.plan, self.step
        row: dict[str, object] = {}
        loss = speed = None
        if step in plan.logs:
            loss = self._take_mean_loss()
            speed, waiting = clock.measure(step)
            row = {"loss": loss, "learning_rate_factor": self._factor(step - 1)}
            row |= {"images_per_second": f"{speed:.1f}", "data_wait_share": f"{waiting:.4f}"}
        self._reporter.progress(step, plan.num_steps, loss, speed)
        if step in plan.evals:
            with clock.paused(), self._workers.doing("scoring"):
                row |= self._evaluate(valid)
        if row and self._workers.is_first:
            epoch = f"{step / plan.steps_per_epoch:.4f}"
            row = {"step": step, "epoch": epoch, "images_seen": step * plan.batch_size} | row
            self._folder.log(row)
            self._trackers.log(row)

    def _take_mean_loss(self) -> float:
        """Of all workers, since the last call."""
        loss = float(self._workers.all_reduce_mean(self._loss_sum / self.progress.num_losses))
        if not np.isfinite(loss):
            raise VitpeError(
                f"the loss became {loss} at step {self.step}",
                "lower the learning rate: --set train.adamw_lr=…; checkpoints up to here are kept",
            )
        self._loss_sum.zero_()
        self.progress = replace(self.progress, num_losses=0)
        return loss

    def _evaluate(self, valid: Batches | None) -> dict[str, object]:
        """Score all workers' parts of valid; by the first, who alone has the numbers."""
        averaged = self._model
        if self._average is not None:
            averaged = copy.deepcopy(self._model)
            averaged.load_state_dict(self._average.tensors)
        averaged.eval()
        classifier = PixelClassifier(averaged, self._info.mean, self._info.std)
        num_images = len(valid.store) if valid is not None else 0
        with self._reporter.doing(f"scoring at step {self.step:,}", num_images) as on_progress:
            num_attributes = len(self._info.attributes)
            logits, labels = classify_together(classifier, valid, num_attributes, self._workers, on_progress)
        averaged.train()
        if not self._workers.is_first:
            return {}
        found = score(sigmoid(logits), labels, self._info.attributes, num_resamples=0)
        self._trackers.scored(self.step, found)
        means = found.means
        scores = {
            "mean_accuracy": means["accuracy"].value,
            "mean_average_precision": means["average_precision"].value,
            "majority_accuracy": means["majority_accuracy"].value,
        }
        best = self.progress.best_score is None or scores["mean_accuracy"] > self.progress.best_score
        self._reporter.scored(self.step, scores, best)
        scores = {name: value for name, value in scores.items() if np.isfinite(value)}  # undefined: no image has any
        self.progress = replace(self.progress, scores=scores, scored_step=self.step)
        if best:
            self.progress = replace(self.progress, best_score=scores["mean_accuracy"], best_step=self.step)
        return {
            "valid_accuracy": scores["mean_accuracy"],
            "valid_mean_average_precision": scores.get("mean_average_precision", ""),
        }

    def _save_when_asked(self, writer: Writer) -> None:
        """Save the state when a signal asked one of the workers to, and once a minute. Raises Interrupted, all saved,
        when one was asked to stop. Of several workers all hear of it within a second or a step, see `Meetings`.
        """
        stop = self._stop
        if not (self._meetings.due(self.step) or self.finished):
            return
        signal_number, save_signal, overdue = self._meetings.all_max(
            self.step, stop.signal_number or 0, stop.save_signal or 0, self._is_overdue(writer)
        )
        if (signal_number or save_signal or overdue) and not self.finished:
            self._save_state(writer)
        if signal_number and not self.finished:
            writer.wait()
            self._workers.all_max(0)  # torchrun ends all at the first exit: leave when all is saved
            raise Interrupted(signal_number, self.step, stop.hint)
        if save_signal:
            stop.save_signal = None
            writer.wait()
            self._reporter.note(f"{Signals(save_signal).name}: saved after step {self.step}, and going on")

    def _is_overdue(self, writer: Writer) -> bool:
        """Whether the first worker would like to save a state now."""
        waited = time.monotonic() - self._state_saved_at
        return self._workers.is_first and waited > STATE_INTERVAL_SECONDS and not writer.busy

    def _save_state(self, writer: Writer) -> None:
        state = self.state()
        if self._workers.is_first:
            writer.submit(self._folder.write, save_state, self._folder.state, state)
        self._state_saved_at = time.monotonic()

    def _keep_checkpoint(self, writer: Writer) -> None:
        """Write the history's checkpoint of this step."""
        info = replace(self._describe(), history_only=self._config.keep == "pos_embed")
        path, weights = self._folder.checkpoint(self.step), self._snapshot(info.history_only)
        writer.submit(self._folder.write, save_checkpoint, path, weights, info)

    def _keep_best(self, writer: Writer) -> None:
        writer.submit(self._folder.write, save_checkpoint, self._folder.best, self._snapshot(), self._describe())

    def _snapshot(self, history_only: bool = False) -> dict[str, Tensor]:
        """The weights that are scored and kept, copied, so that training may go on while they are written."""
        weights = self._average.tensors if self._average is not None else self._model.state_dict()
        return _copies(history_part(weights) if history_only else weights)

    def _describe(self) -> CheckpointInfo:
        valid = self.progress.scores if self.progress.scored_step == self.step else None
        return replace(self._info, step=self.step, images_seen=self.step * self.plan.batch_size, valid=valid)

    def _factor(self, step: int) -> float:
        return learning_rate_factor(step, self.plan.num_steps, self._config.warmup_fraction)


class _Clock:
    """Images per second and the share of time spent waiting for data, since the last row of the log."""

    def __init__(self, batches: Batches, step: int) -> None:
        self._batches = batches
        self._start(step)

    def _start(self, step: int) -> None:
        self._step, self._began, self._waited = step, time.perf_counter(), self._batches.wait_seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time within out of the count."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def measure(self, step: int) -> tuple[float, float]:
        """Images per second, and the share of the time that was spent waiting; starts anew."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        waited = self._batches.wait_seconds - self._waited
        speed = (step - self._step) * self._batches.batch_size / elapsed
        self._start(step)
        return speed, waited / elapsed


def _as_many(each: float, seconds: float) -> int:
    """How many repeats of what takes `each` seconds are worth their time."""
    return min(max(_MIN_REPEATS, int(seconds / each)), _MAX_REPEATS)


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
