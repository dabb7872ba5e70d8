"""Configuration → run folder: opens data, model and folder, and lets the loop run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from vitpe.celeba import NUM_PUBLISHED
from vitpe.config import DRAWN_FACES, DataConfig, RunConfig
from vitpe.data.augmentation import Augmentation
from vitpe.data.batches import Batches, Shard
from vitpe.data.label_table import tells_sides
from vitpe.data.samples import Samples, fingerprint
from vitpe.data.sources import open_samples
from vitpe.data.storage import ImageStore
from vitpe.device import describe_device
from vitpe.errors import UsageError, VitpeError
from vitpe.fields import changed_fields
from vitpe.model.convert import convert_state_dict
from vitpe.model.grid import Grid
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.runs.checkpoint import check_finite, load_foreign
from vitpe.runs.folder import RunFolder, RunIdentity
from vitpe.runs.metadata import CheckpointInfo
from vitpe.runs.state import load_state, save_state
from vitpe.text import brief
from vitpe.training.background import StopRequest, stop_signals
from vitpe.training.forward import choose_precision
from vitpe.training.loop import Reporter, Trainer
from vitpe.training.memory_needs import check_fits
from vitpe.training.plan import Plan
from vitpe.training.workers import ALONE, Workers

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
_PATHS: Final = frozenset({"data.data", "data.labels"})
_HISTORY_LIMIT_BYTES: Final = 1 << 30
_VALID_BATCH_SIZE: Final = 128
_NUM_NAMED: Final = 5


@dataclass(frozen=True)
class TrainResult:
    """folder: of the run. step: the last. scores: the last on valid, None where there is no valid split."""

    folder: Path
    step: int
    scores: Mapping[str, float] | None


def train(
    config: RunConfig,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    *,
    resume: bool = False,
    init: Path | None = None,
    init_grid: Grid | None = None,
    command: str = "vitpe train",
    workers: Workers = ALONE,
) -> TrainResult:
    """Train from the start, or with `resume` from the last saved state, to the plan's end.

    resume: continue the run in `folder`.
    init: a safetensors file of vitpe, timm, torchvision or Hugging Face to take the first weights from. init_grid:
    (rows, columns) of its position embeddings, for files that do not say it.
    command: what a user types to resume, less --resume; stands in the note of an interrupted run.
    workers: this process among those that train together.
    Raises VitpeError for what the user can repair, Interrupted (all saved) on Ctrl-C and SIGTERM.
    """
    run = RunFolder(folder)
    config = replace(config, data=_absolute(config.data))
    if resume:
        stored = run.read_config()
        check_resumable(stored, config)
        if config.train.precision == "auto":
            config = replace(config, train=replace(config.train, precision=stored.train.precision))
    else:
        run.refuse_existing()
    again = f"{command} --resume" if workers.world_size == 1 else "the same torchrun command and --resume"
    seed = config.train.seed
    splits = [open_samples(config.data, split, config.model.img_size, seed) for split in ("train", "valid")]
    _check_sides(config.data.flip, splits[0].attributes)
    with (
        stop_signals(f"continue with: {again}") as stop,
        run.locked() if workers.is_first else nullcontext(),
    ):
        if workers.is_first and not resume:
            run.refuse_existing()  # one may have come since
        if run.identity is None and workers.is_first:
            run.identity = RunIdentity(valid_fingerprint=_whole_valid_fingerprint(config, splits[1]))
        trainer = _prepare(config, run, device, reporter, workers, splits, resume, init, init_grid)
        if not trainer.finished:
            told = {note for samples in splits for note in samples.notes}
            with workers.doing("preparing images"):
                batches = _open_batches(config, trainer, splits, device, reporter, workers, stop)
            trainer.run(*batches, stop)
            for note in (note for samples in splits for note in samples.notes if note not in told):
                reporter.note(note)  # of images, now that they were read
    return TrainResult(run.path, trainer.step, trainer.progress.scores)


def check_resumable(stored: RunConfig, wanted: RunConfig) -> None:
    """UsageError naming what differs, unless it is in MAY_CHANGE.

    Images and labels may have moved: whether they are the same shows later, in what they hold. A precision that is
    left open is the run's.
    """
    wanted = replace(wanted, model=replace(wanted.model, num_classes=stored.model.num_classes))  # the data decides it
    if wanted.train.precision == "auto":
        wanted = replace(wanted, train=replace(wanted.train, precision=stored.train.precision))
    refused = [
        d
        for d in changed_fields(stored, wanted)
        if d.key not in MAY_CHANGE and not (d.key in _PATHS and not {None, DRAWN_FACES} & {d.old, d.new})
    ]
    if refused:
        raise UsageError(
            "cannot resume with " + "; ".join(f"{d.key} {d.new!r} where the run has {d.old!r}" for d in refused),
            "resume without these options, or start another run: --run FOLDER",
        )


def _absolute(data: DataConfig) -> DataConfig:
    """Paths that mean the same in any folder, for whoever reads config.json later."""
    if data.data == DRAWN_FACES:
        return data
    labels = None if data.labels is None else str(Path(data.labels).absolute())
    return replace(data, data=str(Path(data.data).absolute()), labels=labels)


def _whole_valid_fingerprint(config: RunConfig, valid: Samples) -> str | None:
    """Of what `vitpe eval` scores the run on; drawn faces are always the same."""
    if config.data.data == DRAWN_FACES:
        return None
    if config.data.num_valid is not None:
        valid = open_samples(replace(config.data, num_valid=None), "valid", config.model.img_size)
    return fingerprint([valid])


def _prepare(
    config: RunConfig,
    run: RunFolder,
    device: torch.device,
    reporter: Reporter,
    workers: Workers,
    splits: list[Samples],
    resuming: bool,
    init: Path | None,
    init_grid: Grid | None,
) -> Trainer:
    """The trainer at the step it goes on from, with a folder that can be resumed from there."""
    samples, valid_samples = splits
    if valid_samples.attributes != samples.attributes:
        raise VitpeError("the train and valid splits have different attributes", "use one table of labels for both")
    _describe_data(samples, valid_samples, reporter)
    if samples.source == "labelled_csv" and config.data.flip is None:
        reporter.note("training images are mirrored at random; if labels tell left from right: --set data.flip=false")
    plan = Plan.of(config.train, len(samples.names))
    if plan.batch_size % workers.world_size:
        raise UsageError(
            f"batch size {plan.batch_size} cannot be shared by {workers.world_size} workers",
            "choose a multiple of the number of workers: --batch-size",
        )
    config = replace(config, model=replace(config.model, num_classes=len(samples.attributes)))
    batch_size = plan.batch_size // workers.world_size
    check_fits(config.model, config.train, batch_size, device, choose_precision(config.train, device))
    torch.manual_seed(config.train.seed)
    model = VisionTransformer(config.model)
    if init is not None and resuming:
        reporter.note(f"{init} is not read again: the run goes on with its own weights")
    elif init is not None:
        initialize(model, init, samples.attributes, reporter, init_grid)
    precision: Any = choose_precision(config.train, device)
    if resuming and config.train.precision == "auto":
        reporter.note(f"the run does not say its precision: it goes on in {precision}")
    config = replace(config, train=replace(config.train, keep=_resolve_keep(config, model), precision=precision))
    shared = f", {workers.world_size} workers" if workers.world_size > 1 else ""
    size = f"{num_parameters(model) / 1e6:.1f} M parameters"
    reporter.note(f"model: {config.preset}, {size}, on {describe_device(device)}{shared}")
    info = _info(config, samples)
    trainer = Trainer(config.train, model, info, plan, run, device, workers, reporter, fingerprint(splits))
    if resuming:
        _resume(trainer, run, workers, reporter)
    if not trainer.finished:
        _report_history(config, model, plan, reporter)
        if not resuming:
            state = trainer.state()
            if workers.is_first:
                run.write(save_state, run.state, state)  # before config.json, which makes it a run to resume
        if workers.is_first:
            run.write_config(config)
            run.rewind(trainer.step)
    return trainer


def initialize(
    model: VisionTransformer, init: Path, attributes: Sequence[str], reporter: Reporter, grid: Grid | None = None
) -> None:
    """Load weights of vitpe, timm, torchvision or Hugging Face, and note what was not taken over as it stood.

    attributes: names of the head's rows. grid: see `convert_state_dict`.
    VitpeError naming the file, and the tensor where one does not fit or is not finite.
    """
    foreign = load_foreign(init)
    try:
        converted = convert_state_dict(foreign.tensors, model.config, attributes, foreign.facts, grid)
    except VitpeError as error:
        raise VitpeError(f"{foreign.path}: {brief(error.message)}", error.hint) from error
    check_finite(converted.state_dict, foreign.path)
    model.load_state_dict(converted.state_dict)
    for note in (f"starting from {foreign.path} ({converted.origin})", *converted.notes):
        reporter.note(note)


def _resume(trainer: Trainer, run: RunFolder, workers: Workers, reporter: Reporter) -> None:
    state = load_state(run.state)
    here = trainer.machine
    trainer.restore(state)
    num_steps = trainer.plan.num_steps
    if not workers.all_equal(trainer.step):
        raise VitpeError(f"the workers find different states in {run.path}", "use a folder that all of them share")
    if trainer.step > num_steps:
        raise UsageError(f"the run has done {trainer.step} steps, more than {num_steps}", "resume with more --steps")
    if workers.is_first:
        trainer.complete_best()
    done = "is finished" if trainer.finished else "goes on"
    reporter.note(f"the run in {run.path} {done} after step {trainer.step} of {num_steps}")
    before = state.progress.machine
    changes = before.changes(here) if before is not None and here is not None else ""
    if changes and not trainer.finished:
        reporter.note(f"it goes on with {changes}: it will not end bit for bit as an uninterrupted one")


def _open_batches(
    config: RunConfig,
    trainer: Trainer,
    splits: list[Samples],
    device: torch.device,
    reporter: Reporter,
    workers: Workers,
    stop: StopRequest,
) -> tuple[Batches, Batches | None]:
    """For training, and for scoring, which only the first worker does. Raises Interrupted when asked to stop."""

    def on_progress(done: int, total: int) -> None:
        reporter.prepared(done, total)
        stop.check(trainer.step)

    def stored(samples: Samples) -> ImageStore:
        return ImageStore(samples, device, config.data.store, on_progress)

    size, seed, keep = config.model.img_size, config.train.seed, config.train.patch_keep
    augmentation = Augmentation(seed, config.data.flip is not False, keep, config.model.num_patches)
    shard = Shard(workers.rank, workers.world_size)
    train_batches = Batches(stored(splits[0]), size, trainer.plan.batch_size, augmentation, shard)
    valid_batches = Batches(stored(splits[1]), size, _VALID_BATCH_SIZE) if workers.is_first else None
    reporter.note(f"images: {_where(train_batches.store.where, device)}")
    return train_batches, valid_batches


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
    to_train, to_validate = f"{len(train.names):,}", f"{len(valid.names):,} to validate"
    if train.source == "drawn_faces":
        reporter.note(f"data: {to_train} drawn faces to train on, {to_validate}; real: --data FOLDER")
    elif train.source == "celeba":
        reporter.note(f"data: CelebA, {to_train} images to train on, {to_validate} (of {NUM_PUBLISHED:,} published)")
    else:
        reporter.note(f"data: {to_train} images to train on, {to_validate}, {len(train.attributes)} attributes")
    for note in dict.fromkeys(
        (*train.notes, *valid.notes, *_constant(train, "train on"), *_constant(valid, "validate"))
    ):
        reporter.note(note)


def _constant(samples: Samples, purpose: str) -> Iterator[str]:
    """A warning of attributes that are the same in all images, of which nothing can be learned, nor said how well."""
    extremes = zip(samples.attributes, samples.labels.min(axis=0), samples.labels.max(axis=0), strict=True)
    alike = [f"{name} (always {least})" for name, least, most in extremes if least == most]
    if alike:
        shown = ", ".join(alike[:_NUM_NAMED]) + (", …" if len(alike) > _NUM_NAMED else "")
        attributes = "1 attribute has" if len(alike) == 1 else f"{len(alike)} attributes have"
        yield f"warning: {attributes} one value only in the {len(samples.names):,} images to {purpose}: {shown}"


def _check_sides(flip: bool | None, attributes: Sequence[str]) -> None:
    """UsageError when images would be mirrored unasked, and their labels tell left from right."""
    sided = [name for name in attributes if tells_sides(name)]
    if flip is None and sided:
        shown = ", ".join(sided[:_NUM_NAMED]) + (", …" if len(sided) > _NUM_NAMED else "")
        raise UsageError(
            f"labels tell left from right ({shown}), and training mirrors images",
            "train without mirroring: --set data.flip=false (=true, where it does no harm)",
        )


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
        "disk": "read or drawn as they are needed",
    }[store]
