"""Configuration → run folder: opens data, model and folder, and lets the loop run."""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from vitpe.config import RunConfig, differences
from vitpe.data.batches import Batches
from vitpe.data.celeba import NUM_PUBLISHED
from vitpe.data.samples import Samples
from vitpe.data.sources import open_samples
from vitpe.device import describe_device
from vitpe.errors import UsageError, VitpeError
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.model.weights import convert_state_dict
from vitpe.training.background import stop_signals
from vitpe.training.checkpoint import CheckpointInfo, load_foreign
from vitpe.training.distributed import Workers, joined, num_workers
from vitpe.training.loop import Plan, Reporter, Trainer
from vitpe.training.run_folder import RunFolder
from vitpe.training.state import load_state

MAY_CHANGE: Final = frozenset(
    {
        "train.epochs",
        "train.steps",
        "train.num_checkpoints",
        "train.num_evals",
        "train.keep",
        "train.compile",
        "data.store",
    }
)
"""What a resumed run may do differently; anything else would make it another run."""
_HISTORY_LIMIT_BYTES: Final = 1 << 30
_VALID_BATCH_SIZE: Final = 128


@dataclass(frozen=True)
class TrainResult:
    """folder: of the run. step: the last. scores: the last on valid, None where there is no valid split."""

    folder: Path
    step: int
    scores: Mapping[str, float] | None
    best_accuracy: float | None


def train(
    config: RunConfig,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    *,
    resume: bool = False,
    init: Path | None = None,
    command: str = "vitpe train",
) -> TrainResult:
    """Train from the start, or with `resume` from the last saved state, to the plan's end.

    init: a safetensors file of vitpe, timm, torchvision or Hugging Face to take the first weights from.
    command: what a user types to resume, less --resume; stands in the note of an interrupted run.
    Raises VitpeError for what the user can repair, Interrupted (all saved) on Ctrl-C and SIGTERM.
    """
    run = RunFolder(folder)
    if not resume:
        run.refuse_existing()
    splits = [open_samples(config.data, split, config.model.img_size) for split in ("train", "valid")]
    config = replace(config, model=replace(config.model, num_classes=len(splits[0].attributes)))
    with stop_signals() as stop, joined(device) as workers:
        if config.train.batch_size % workers.world_size:
            raise UsageError(
                f"batch size {config.train.batch_size} cannot be shared by {workers.world_size} workers",
                "choose a multiple of the number of workers: --batch-size",
            )
        with run.locked() if workers.is_first else nullcontext():
            trainer = _prepare(config, run, device, reporter, workers, splits, resume, init)
            trainer.run(stop, f"{command} --resume")
    return TrainResult(run.path, trainer.step, trainer.last_scores, trainer.best_score)


def check_resumable(stored: RunConfig, wanted: RunConfig) -> None:
    """UsageError naming what differs, unless it is in MAY_CHANGE."""
    refused = [d for d in differences(stored, wanted) if d.key not in MAY_CHANGE]
    if refused:
        raise UsageError(
            "cannot resume with " + "; ".join(f"{d.key} {d.new!r} where the run has {d.old!r}" for d in refused),
            "resume without these options, or start another run: --run FOLDER",
        )


def _prepare(
    config: RunConfig,
    run: RunFolder,
    device: torch.device,
    reporter: Reporter,
    workers: Workers,
    splits: list[Samples],
    resume: bool,
    init: Path | None,
) -> Trainer:
    samples, valid_samples = splits
    if valid_samples.attributes != samples.attributes:
        raise VitpeError("the train and valid splits have different attributes", "use one table of labels for both")
    _describe_data(samples, valid_samples, reporter)
    torch.manual_seed(config.train.seed)
    model = VisionTransformer(config.model)
    if init is not None and not resume:
        tensors, grid = load_foreign(init)
        converted = convert_state_dict(tensors, config.model, grid)
        model.load_state_dict(converted.state_dict, strict=False)
        for note in (f"starting from {init} ({converted.origin})", *converted.notes):
            reporter.note(note)
    train_batches, valid_batches = (
        Batches(
            split,
            crop_size=config.model.img_size,
            batch_size=config.train.batch_size if training else _VALID_BATCH_SIZE,
            device=device,
            store=config.data.store,
            training=training,
            flip=config.data.flip,
            seed=config.train.seed,
            rank=workers.rank if training else 0,
            world_size=workers.world_size if training else 1,
            on_progress=reporter.prepared,
        )
        for split, training in ((samples, True), (valid_samples, False))
    )
    config = replace(config, train=replace(config.train, keep=_resolve_keep(config, model)))
    reporter.note(
        f"{config.preset}: {num_parameters(model) / 1e6:.1f} M parameters on {describe_device(device)}"
        f"{f', {num_workers()} workers' if num_workers() > 1 else ''}; images {_where(train_batches.store, device)}"
    )
    trainer = Trainer(
        config,
        model,
        _info(config, samples),
        train_batches,
        valid_batches,
        run,
        device,
        workers,
        reporter,
        _fingerprint(samples),
    )
    _report_history(config, model, trainer.plan, reporter)
    if resume and run.state.exists():
        trainer.restore(load_state(run.state))
        reporter.note(f"resuming {run.path} after step {trainer.step} of {trainer.plan.num_steps}")
    if workers.is_first:
        run.write_config(config)
        run.truncate(trainer.step if trainer.step else -1)
    return trainer


def _info(config: RunConfig, samples: Samples) -> CheckpointInfo:
    return CheckpointInfo(
        model=config.model,
        attributes=samples.attributes,
        mean=config.data.mean,
        std=config.data.std,
        thresholds=(0.5,) * len(samples.attributes),
        stored_size=samples.stored_size,
        step=0,
        images_seen=0,
        seed=config.train.seed,
        data_source=samples.source,
    )


def _describe_data(train: Samples, valid: Samples, reporter: Reporter) -> None:
    counts = f"{len(train.names):,} images to train on, {len(valid.names):,} to validate"
    if train.source == "drawn_faces":
        reporter.note(f"data: faces drawn by vitpe, {counts}; for real ones: --data FOLDER (CelebA)")
    elif train.source == "celeba":
        reporter.note(f"data: CelebA, {counts} (of {NUM_PUBLISHED:,} published)")
    else:
        reporter.note(f"data: {counts}, {len(train.attributes)} attributes")


def _fingerprint(samples: Samples) -> str:
    """Changes with the names and labels of the training images."""
    digest = hashlib.sha256("\n".join((samples.source, *samples.attributes, *samples.names)).encode())
    digest.update(samples.labels.tobytes())
    return digest.hexdigest()


def _resolve_keep(config: RunConfig, model: torch.nn.Module) -> Any:
    if config.train.keep != "auto":
        return config.train.keep
    whole = 4 * num_parameters(model) * config.train.num_checkpoints
    return "all" if whole <= _HISTORY_LIMIT_BYTES else "pos_embed"


def _report_history(config: RunConfig, model: VisionTransformer, plan: Plan, reporter: Reporter) -> None:
    whole = config.train.keep == "all"
    kept = num_parameters(model) if whole else model.pos_embed.numel() + model.patch_embed.proj.weight.numel()
    megabytes = 4 * kept * len(plan.checkpoints) / 1e6
    what = "whole models" if whole else "position embeddings only"
    reporter.note(f"history: {len(plan.checkpoints)} checkpoints, {what}, {megabytes:.0f} MB")


def _where(store: str, device: torch.device) -> str:
    return {
        "device": f"decoded in {'memory' if device.type == 'cpu' else 'the memory of ' + str(device)}",
        "memory": "encoded in memory",
        "disk": "read from disk",
    }[store]
