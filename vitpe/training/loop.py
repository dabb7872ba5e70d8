"""The training loop: batches → updates, a log, checkpoints, and a state to resume from.

After step t everything that follows is a function of the state and t: the data order, the crops and the random
draws of step t come from (seed, t). So a run that was cut and resumed ends bit for bit where the uncut one ends.
"""

import copy
import time
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from vitpe.config import RunConfig, TrainConfig
from vitpe.data.batches import Batch, Batches
from vitpe.data.images import normalize
from vitpe.errors import VitpeError
from vitpe.model.vit import VisionTransformer
from vitpe.scoring.evaluate import precision, predict_split, sigmoid
from vitpe.scoring.metrics import score
from vitpe.training.background import Interrupted, StopRequest, Writer
from vitpe.training.checkpoint import CheckpointInfo, save_checkpoint
from vitpe.training.distributed import Workers
from vitpe.training.optimizer import Average, learning_rate_factor, make_optimizers
from vitpe.training.run_folder import RunFolder
from vitpe.training.state import TrainState, save_state

NUM_LOG_ROWS = 200
MIN_STATE_INTERVAL_SECONDS = 20.0


class Reporter(Protocol):
    """Where a run tells how it goes; the command line shows it on stderr."""

    def note(self, text: str) -> None:
        """One line that the user should know."""

    def prepared(self, done: int, total: int) -> None:
        """While a split's images are decoded or drawn up front."""

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        """After a step; loss and speed are None until the first row of the log."""

    def scored(self, step: int, scores: dict[str, float], best: bool) -> None:
        """After a scoring on valid."""


@dataclass(frozen=True)
class Plan:
    """What happens after which step (counted from 1; 0 is before the first)."""

    num_steps: int
    logs: frozenset[int]
    evals: frozenset[int]
    checkpoints: frozenset[int]

    @staticmethod
    def of(config: TrainConfig, steps_per_epoch: int) -> "Plan":
        """Logs and scorings evenly, checkpoints denser early, where position embeddings change fastest."""
        n = config.steps or max(1, round(config.epochs * steps_per_epoch))
        shares = np.linspace(0, 1, config.num_checkpoints + 1)
        return Plan(
            num_steps=n,
            logs=frozenset(range(0, n + 1, max(1, n // NUM_LOG_ROWS))) - {0} | {n},
            evals=frozenset(np.ceil(np.linspace(0, n, config.num_evals + 1)[1:]).astype(int).tolist()),
            checkpoints=frozenset(np.ceil(n * shares**1.5).astype(int).tolist()),
        )


class Trainer:
    """One run's model, optimizers and counters; `run` takes it from its step to the end."""

    def __init__(
        self,
        config: RunConfig,
        model: VisionTransformer,
        info: CheckpointInfo,
        train: Batches,
        valid: Batches | None,
        folder: RunFolder,
        device: torch.device,
        workers: Workers,
        reporter: Reporter,
        fingerprint: str,
    ) -> None:
        self._config, self._info, self._folder, self._reporter = config.train, info, folder, reporter
        self._train, self._valid, self._workers, self._device = train, valid, workers, device
        self._fingerprint = fingerprint
        self._model = model.to(device)
        self._optimizers = make_optimizers(model, config.train)
        self._average = Average(model, config.train.ema_decay) if config.train.ema_decay else None
        self._forward = workers.wrap(_compiled(model, config.train, device))
        self.plan = Plan.of(config.train, train.steps_per_epoch)
        self.step = 0
        self.best_score: float | None = None
        self.last_scores: dict[str, float] | None = None
        self._loss_sum = torch.zeros((), device=device)
        self._num_losses = 0
        self._state_saved_at = time.monotonic()
        self._clock = _Clock(train)

    def restore(self, state: TrainState) -> None:
        """Continue from a saved state; VitpeError when it is of other data."""
        if state.fingerprint != self._fingerprint:
            raise VitpeError(
                "the training data differs from what the run was started with",
                "resume with the same images and labels, or start another run: --run FOLDER",
            )
        self._model.load_state_dict(state.model)
        if self._average is not None:
            self._average.tensors = {name: value.to(self._device) for name, value in state.average.items()}
        self._optimizers.load_state_tensors(state.optimizer)
        self._loss_sum.copy_(state.loss_sum)
        self._num_losses, self.step = state.num_losses, state.step
        self.best_score, self.last_scores = state.best_score, state.last_scores

    def run(self, stop: StopRequest, resume_command: str) -> None:
        """Train to the plan's last step. Raises Interrupted, with all saved, when asked to stop."""
        writer = Writer()
        try:
            if self.step == 0:
                self._after_step(writer)
            self._clock.start(self.step)
            batches = self._train.from_step(self.step)
            while self.step < self.plan.num_steps:
                self._update(next(batches))
                self.step += 1
                self._after_step(writer)
                signal_number = self._workers.highest(stop.signal_number or 0)
                if signal_number:
                    self._save_state(writer)
                    writer.wait()
                    raise Interrupted(signal_number, self.step, resume_command)
            batches.close()
        finally:
            writer.close()

    def _update(self, batch: Batch) -> None:
        # Stochastic depth draws from a generator that is a function of the step, so no random state needs saving.
        torch.manual_seed((self._config.seed << 40) + (self.step << 10) + self._workers.rank)
        labels = batch.labels.float()
        if self._config.label_smoothing:
            labels = labels * (1 - self._config.label_smoothing) + self._config.label_smoothing / 2
        with precision(self._device):
            logits = self._forward(normalize(batch.images, self._info.mean, self._info.std))
        loss = binary_cross_entropy_with_logits(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._config.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.grad_clip_norm)
        self._optimizers.step(self._factor(self.step))
        if self._average is not None:
            self._average.update(self._model, self.step)
        self._loss_sum += loss.detach()  # stays on the device: reading it would wait for the GPU
        self._num_losses += 1

    def _after_step(self, writer: Writer) -> None:
        plan, step = self.plan, self.step
        row: dict[str, object] = {}
        loss = speed = None
        if step in plan.logs:
            loss = float(self._workers.mean(self._loss_sum / self._num_losses))
            if not np.isfinite(loss):
                raise VitpeError(
                    f"the loss became {loss} at step {step}",
                    "lower the learning rate: --set train.adamw_lr=…; checkpoints up to here are kept",
                )
            self._loss_sum.zero_()
            self._num_losses = 0
            row = self._clock.row(step)
            speed = float(row["images_per_second"])  # type: ignore[arg-type]
            row |= {"loss": loss, "learning_rate_factor": self._factor(step - 1)}
        if step in plan.evals and self._workers.is_first and self._valid is not None:
            row |= self._evaluate(writer)
        if row and self._workers.is_first:
            images_seen = step * self._train.batch_size
            epoch = step / self._train.steps_per_epoch
            self._folder.log({"step": step, "epoch": f"{epoch:.4f}", "images_seen": images_seen} | row)
        self._reporter.progress(step, plan.num_steps, loss, speed)
        if step in plan.checkpoints:
            if self._workers.is_first:
                info = replace(self._describe(), history_only=self._config.keep == "pos_embed")
                writer.submit(save_checkpoint, self._folder.checkpoint(step), self._snapshot(), info)
            if step == plan.num_steps or time.monotonic() - self._state_saved_at > MIN_STATE_INTERVAL_SECONDS:
                self._save_state(writer)

    def _evaluate(self, writer: Writer) -> dict[str, object]:
        assert self._valid is not None
        began = time.perf_counter()
        averaged = self._model
        if self._average is not None:
            averaged = copy.deepcopy(self._model)
            averaged.load_state_dict(self._average.tensors)
        averaged.eval()
        logits, labels = predict_split(averaged, self._valid.once(), self._info.mean, self._info.std)
        averaged.train()
        means = score(sigmoid(logits), labels, self._info.attributes, num_resamples=0).means
        self.last_scores = {
            "mean_accuracy": means["accuracy"].value,
            "mean_average_precision": means["average_precision"].value,
            "majority_accuracy": means["majority_accuracy"].value,
        }
        accuracy = self.last_scores["mean_accuracy"]
        best = self.best_score is None or accuracy > self.best_score
        if best:
            self.best_score = accuracy
            writer.submit(save_checkpoint, self._folder.best, self._snapshot(), self._describe())
        self._reporter.scored(self.step, self.last_scores, best)
        self._clock.pause(time.perf_counter() - began)
        return {
            "valid_accuracy": accuracy,
            "valid_mean_average_precision": self.last_scores["mean_average_precision"],
        }

    def _save_state(self, writer: Writer) -> None:
        self._state_saved_at = time.monotonic()
        if not self._workers.is_first:
            return
        state = TrainState(
            step=self.step,
            model=_copies(self._model.state_dict()),
            average=_copies(self._average.tensors) if self._average is not None else {},
            optimizer=_copies(self._optimizers.state_tensors()),
            loss_sum=self._loss_sum.clone(),
            num_losses=self._num_losses,
            best_score=self.best_score,
            last_scores=self.last_scores,
            fingerprint=self._fingerprint,
        )
        writer.submit(save_state, self._folder.state, state)

    def _snapshot(self) -> dict[str, Tensor]:
        """The weights that are scored and kept, copied, so that training may go on while they are written."""
        return _copies(self._average.tensors if self._average is not None else self._model.state_dict())

    def _describe(self) -> CheckpointInfo:
        valid = self.last_scores
        return replace(self._info, step=self.step, images_seen=self.step * self._train.batch_size, valid=valid)

    def _factor(self, step: int) -> float:
        return learning_rate_factor(step, self.plan.num_steps, self._config.warmup_fraction)


class _Clock:
    """Images per second and the share of time spent waiting for data, since the last row of the log."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.start(0)

    def start(self, step: int) -> None:
        self._step, self._began, self._waited = step, time.perf_counter(), self._batches.wait_seconds

    def pause(self, seconds: float) -> None:
        """Leave `seconds` that went into scoring out of the count."""
        self._began += seconds

    def row(self, step: int) -> dict[str, object]:
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        waited = self._batches.wait_seconds - self._waited
        images = (step - self._step) * self._batches.batch_size
        self.start(step)
        return {"images_per_second": f"{images / elapsed:.1f}", "data_wait_share": f"{waited / elapsed:.4f}"}


def _compiled(model: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """The model through torch.compile where that pays: on GPUs, and wherever it is asked for."""
    if config.compile == "on" or (config.compile == "auto" and device.type == "cuda"):
        return torch.compile(model)  # type: ignore[return-value]
    return model


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
