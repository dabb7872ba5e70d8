"""Configuration → run folder: opens data, model and folder, and lets the loop run."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Final

import numpy as np
import torch

from vitpe.celeba import ATTRIBUTES
from vitpe.config import DEFAULT_PRESET, DRAWN_FACES, DataConfig, RunConfig, preset_of
from vitpe.data.augmentation import Augmentation
from vitpe.data.batches import Batches, Shard
from vitpe.data.folds import SomeSamples
from vitpe.data.label_table import tells_sides
from vitpe.data.samples import Samples, fingerprint
from vitpe.data.sources import describe, open_samples
from vitpe.data.storage import ImageStore, choose_store, num_decoded_bytes
from vitpe.device import describe_device
from vitpe.errors import UsageError, VitpeError
from vitpe.fields import changed_fields, to_json
from vitpe.model.convert import convert_state_dict
from vitpe.model.facts import Grid
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.runs.checkpoint import check_finite, history_part, load_foreign
from vitpe.runs.find import RUNS
from vitpe.runs.folder import RunFolder, RunIdentity, new_run
from vitpe.runs.metadata import CheckpointInfo
from vitpe.runs.state import RunProgress, load_state, save_state
from vitpe.text import brief
from vitpe.training.background import stop_signals
from vitpe.training.balance import BalancedGroups, balanced_groups
from vitpe.training.budget import steps_within
from vitpe.training.decoding import open_together
from vitpe.training.forward import choose_precision
from vitpe.training.loop import Reporter, RunContext, Trainer
from vitpe.training.memory_needs import bytes_in_words, check_fits, memory_bytes, training_needs
from vitpe.training.plan import Plan
from vitpe.training.scoring import parts
from vitpe.training.tracking import Tracker, Trackers
from vitpe.training.workers import ALONE, Workers

MAY_CHANGE: Final = frozenset(
    {
        "train.epochs",
        "train.steps",
        "train.num_checkpoints",
        "train.num_evals",
        "train.keep",
        "train.compile",
        "train.cuda_graph",
        "train.micro_batch_size",
        "data.store",
    }
)
"""What a resumed run may do differently; anything else would make it another run."""
_PATHS: Final = frozenset({"data.data", "data.labels", "data.relabel"})
_HISTORY_LIMIT_BYTES: Final = 1 << 30
_VALID_BATCH_SIZE: Final = 128
_OPERATIONS_PER_THREAD: Final = 7e10  # a second, as `tiny` and `laptop` train on a Zen 4 in bfloat16
_MANY_HOURS: Final = 3.0
_NUM_NAMED: Final = 5


@dataclass(frozen=True)
class Best:
    """The checkpoint of the highest mean accuracy on valid: its file, step, and that accuracy (0 to 1)."""

    file: Path
    step: int
    accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """folder: of the run. step: the last. scores: the last on valid, and best: None where none was scored."""

    folder: Path
    step: int
    scores: Mapping[str, float] | None
    best: Best | None


def train(
    config: RunConfig,
    folder: Path | None,
    device: torch.device,
    reporter: Reporter,
    *,
    resume: bool = False,
    init: Path | None = None,
    init_grid: Grid | None = None,
    workers: Workers = ALONE,
    trackers: Sequence[Tracker] = (),
    minutes: float | None = None,
) -> TrainResult:
    """Train from the start, or with `resume` from the last saved state, to the plan's end.

    folder: for the run; None for the next free number in RUNS. resume: continue the run that is there.
    init: a safetensors file of vitpe, timm, torchvision or Hugging Face to take the first weights from. init_grid:
    (rows, columns) of its position embeddings, for files that do not say it.
    workers: this process among those that train together. trackers: told what metrics.csv has, by the first of them.
    minutes: the time that the whole may take, from which the number of steps is found; None for the configuration's.
    Raises VitpeError for what the user can repair, Interrupted (all saved) on Ctrl-C and SIGTERM.
    """
    began = time.monotonic()
    config = replace(config, data=_absolute(config.data))
    named = None if folder is None else RunFolder(folder)
    if named is not None:
        if resume:
            config = _continued(config, named, device, reporter)
        else:
            named.refuse_existing()
    with reporter.doing("reading the labels"):
        train_samples, valid_samples = _open_splits(config)
        labelled = _open_labelled(config, train_samples)
    groups = balanced_groups(labelled, config.train.balance) if config.train.balance else None
    with stop_signals() as stop, _held(named, workers) as run:
        stop.hint = _how_to_continue(run, workers)
        if named is None:
            reporter.note(f"run: {run.path}")
        told_by_first = Trackers(trackers if workers.is_first else (), reporter.note)
        context = RunContext(run, device, workers, reporter, stop, told_by_first)
        if workers.is_first:
            with reporter.doing("telling these data from any other"):
                _identify(run, config, valid_samples, resume, init)
        _describe_data(config.data, train_samples, valid_samples, reporter)
        for line in groups.describe() if groups is not None else ():
            reporter.note(line)
        config = _with_epochs(config, len(train_samples.names), minutes, reporter)
        config = _with_decided(config, train_samples, device)
        plan = Plan.of(config.train, len(train_samples.names))
        _check_batch(plan, config, (train_samples, valid_samples), context)
        torch.manual_seed(config.train.seed)
        with reporter.doing("making the model"):
            model = VisionTransformer(config.model)
        if init is not None and resume:
            reporter.note(f"{init} is not read again: the run goes on with its own weights")
        elif init is not None:
            initialize(model, init, train_samples.attributes, reporter, init_grid)
        config = replace(config, train=replace(config.train, keep=_resolve_keep(config, model)))
        _describe_model(config, model, context)
        other_labels = [] if labelled is train_samples else [labelled]
        with reporter.doing("telling these data from any other"):
            data_fingerprint = fingerprint([train_samples, valid_samples, *other_labels])
        told = {*train_samples.notes, *valid_samples.notes}

        def make_trainer(model: VisionTransformer, plan: Plan) -> Trainer:
            return Trainer(config.train, model, _info(config, train_samples), plan, context, data_fingerprint)

        def open_batches(step: int) -> tuple[Batches, Batches | None]:
            with workers.doing("preparing images"):
                return _open_batches(config, (train_samples, valid_samples), groups, plan.batch_size, step, context)

        batches = None
        if minutes is not None and not resume:
            batches = open_batches(step=0)
            trial = make_trainer(copy.deepcopy(model), plan)
            steps = steps_within(60 * minutes, began, trial, batches, _num_scored(valid_samples, workers), context)
            config = replace(config, train=replace(config.train, steps=steps))
            plan = Plan.of(config.train, len(train_samples.names))
        trainer = make_trainer(model, plan)
        if resume:
            with reporter.doing("reading the run's state"):
                _restore(trainer, context)
        if not trainer.finished:
            _describe_history(config, model, plan, reporter)
            if minutes is None:
                _warn_of_hours(config, model, plan, trainer.step, context)
            with reporter.doing("writing the run's first state"):
                _write_start(trainer, config, context, resume)
            batches = open_batches(trainer.step) if batches is None else batches
            run_id = None if run.identity is None else run.identity.id
            context.trackers.start(run.path, run_id, to_json(config), trainer.step)
            try:
                trainer.run(*batches)
            finally:
                context.trackers.finish(run.path)
                for part in filter(None, batches):
                    part.store.close()
            for note in workers.all_lines((*train_samples.notes, *valid_samples.notes)):
                if note not in told:
                    reporter.note(note)  # of images, now that they were read
    return TrainResult(run.path, trainer.step, trainer.progress.scores, _best(run, trainer.progress))


def _best(run: RunFolder, progress: RunProgress) -> Best | None:
    if progress.best_step is None or progress.best_score is None:
        return None
    return Best(run.best, progress.best_step, progress.best_score)


@contextmanager
def _held(named: RunFolder | None, workers: Workers) -> Iterator[RunFolder]:
    """The run's folder, locked by the first worker, who also chooses it where none is named."""
    if named is not None:
        with named.locked() if workers.is_first else nullcontext():
            yield named
    elif workers.is_first:
        with new_run(RUNS) as run:
            workers.all_max(int(run.path.name))
            yield run
    else:
        yield RunFolder(RUNS / str(*workers.all_max(0)))


def _how_to_continue(run: RunFolder, workers: Workers) -> str:
    options = f"--run {quote(str(run.path))} --resume"
    alone = workers.world_size == 1
    return (
        f"continue with: vitpe train {options}" if alone else f"continue with: the same torchrun command and {options}"
    )


def _continued(config: RunConfig, run: RunFolder, device: torch.device, reporter: Reporter) -> RunConfig:
    """`config`, which must be the stored one but for what may change, with the precision that the run began with."""
    stored = run.read_config()
    check_resumable(stored, config)
    if config.train.precision != "auto":
        return config
    if stored.train.precision == "auto":  # as runs of earlier versions say
        precision = choose_precision(stored.train, device)
        reporter.note(f"the run does not say its precision: it goes on in {precision}")
    return replace(config, train=replace(config.train, precision=stored.train.precision))


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

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).absolute())

    folder = data.data if data.data == DRAWN_FACES else str(Path(data.data).absolute())
    labels = None if data.labels is None else tuple(str(Path(path).absolute()) for path in data.labels)
    return replace(data, data=folder, labels=labels, relabel=absolute(data.relabel))


def _open_splits(config: RunConfig) -> tuple[Samples, Samples]:
    """The samples to train on and those to validate."""
    size, seed = config.model.img_size, config.train.seed
    train, valid = (open_samples(config.data, split, size, seed) for split in ("train", "valid"))
    _check_sides(config.data.flip, train.attributes)
    if valid.attributes != train.attributes:
        raise VitpeError("the train and valid splits have different attributes", "use one table of labels for both")
    return train, valid


def _open_labelled(config: RunConfig, train: Samples) -> Samples:
    """The training samples with labels of the attributes that they are balanced by, be these trained on or not."""
    if {*config.train.balance} <= {*train.attributes}:
        return train
    return open_samples(replace(config.data, attributes=None), "train", config.model.img_size, config.train.seed)


def _identify(run: RunFolder, config: RunConfig, valid: Samples, resume: bool, init: Path | None) -> None:
    """Give the locked folder an identity; a run of an earlier version that is resumed may have none."""
    if not resume:
        run.refuse_existing()  # one may have come before the folder was locked
    if run.identity is None:
        began_with = None if init is None or resume else str(init.absolute())
        run.identity = RunIdentity(valid_fingerprint=_whole_valid_fingerprint(config, valid), init=began_with)


def _whole_valid_fingerprint(config: RunConfig, valid: Samples) -> str | None:
    """Of what `vitpe eval` scores the run on; drawn faces are always the same."""
    if config.data.data == DRAWN_FACES and config.data.relabel is None:
        return None
    if config.data.num_valid is not None:
        valid = open_samples(replace(config.data, num_valid=None), "valid", config.model.img_size)
    return fingerprint([valid])


def _with_decided(config: RunConfig, samples: Samples, device: torch.device) -> RunConfig:
    """`config` with what data and device decide: the number of classes, and the precision where it was left open."""
    precision: Any = choose_precision(config.train, device)
    model = replace(config.model, num_classes=len(samples.attributes))
    return replace(config, model=model, train=replace(config.train, precision=precision))


def _with_epochs(config: RunConfig, num_images: int, minutes: float | None, reporter: Reporter) -> RunConfig:
    """`config` with the preset's number of epochs for so many images, where nobody gave another."""
    if config.train.epochs is not None or config.train.steps is not None:
        return config
    preset = preset_of(config.preset)
    epochs = preset.epochs_for(num_images)
    if epochs < preset.epochs and minutes is None:
        reporter.note(
            f"epochs: {epochs:.3g} of {num_images:,} images, as long as {preset.epochs:g} of {preset.num_images:,};"
            " for longer: --epochs N, or --minutes N"
        )
    return replace(config, train=replace(config.train, epochs=epochs))


def _check_batch(plan: Plan, config: RunConfig, splits: tuple[Samples, Samples], context: RunContext) -> None:
    """UsageError unless a batch can be shared equally by the workers, and training may fit into the memory."""
    num_workers = context.workers.world_size
    if plan.batch_size % num_workers:
        raise UsageError(
            f"batch size {plan.batch_size} cannot be shared by {num_workers} workers",
            "choose a multiple of the number of workers: --batch-size",
        )
    on_gpu = context.device.type == "cuda" and config.data.store == "device"
    images = sum(map(num_decoded_bytes, splits)) if on_gpu else 0
    check_fits(config.model, config.train, plan.batch_size // num_workers, context.device, images)


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


def _restore(trainer: Trainer, context: RunContext) -> None:
    """Take the trainer to the run's last saved state, and tell the user how it goes on from there."""
    state = load_state(context.folder.state)
    trainer.restore(state)
    num_steps = trainer.plan.num_steps
    if not context.workers.all_equal(trainer.step):
        raise VitpeError(
            f"the workers find different states in {context.folder.path}", "use a folder that all of them share"
        )
    if trainer.step > num_steps:
        raise UsageError(f"the run has done {trainer.step} steps, more than {num_steps}", "resume with more --steps")
    if context.workers.is_first:
        trainer.complete_best()
    done = "is finished" if trainer.finished else "goes on"
    context.reporter.note(f"the run in {context.folder.path} {done} after step {trainer.step} of {num_steps}")
    before = state.progress.machine
    changes = before.changes(trainer.machine) if before is not None else ""
    if changes and not trainer.finished:
        context.reporter.note(f"it goes on with {changes}: it will not end bit for bit as an uninterrupted one")


def _write_start(trainer: Trainer, config: RunConfig, context: RunContext, resume: bool) -> None:
    """Leave a folder that can be resumed from the trainer's step."""
    folder = context.folder
    if not resume:
        state = trainer.state()  # all workers take part
        if context.workers.is_first:
            folder.write(save_state, folder.state, state)  # before config.json, which makes it a run to resume
    if context.workers.is_first:
        folder.write_config(config)
        folder.rewind(trainer.step)


def _open_batches(
    config: RunConfig,
    splits: tuple[Samples, Samples],
    groups: BalancedGroups | None,
    batch_size: int,
    step: int,
    context: RunContext,
) -> tuple[Batches, Batches | None]:
    """This worker's, for training and for scoring; None where there is nothing for it to score. step: that were done;
    Interrupted, when asked to stop, names it.
    """
    train, valid = splits
    device, workers = context.device, context.workers

    def on_progress(done: int, total: int) -> None:
        context.reporter.prepared(done, total)
        context.stop.check(step)

    def where(samples: Samples) -> str:
        return choose_store(samples, device, needs.reserve) if config.data.store == "auto" else config.data.store

    needs = training_needs(config.model, config.train, batch_size // workers.world_size, device.type)
    free = memory_bytes(device)
    size, seed, keep = config.model.img_size, config.train.seed, config.train.patch_keep
    num_branches = 2 * config.model.depth if config.model.drop_path_rate else 0
    augmentation = Augmentation(seed, config.data.flip is not False, keep, config.model.num_patches, num_branches)
    shard = Shard(workers.rank, workers.world_size)
    members = () if groups is None else groups.members
    store = open_together(train, device, where(train), workers, on_progress)
    train_batches = Batches(store, size, batch_size, augmentation, shard, members)
    part = parts(len(valid.names), _VALID_BATCH_SIZE, workers.world_size)[workers.rank]
    mine = valid if len(part) == len(valid.names) else SomeSamples(valid, np.arange(part.start, part.stop))
    context.reporter.note(f"images: {_where(store.where, device)}")
    if device.type == "cuda" and free is not None:
        images, training = bytes_in_words(num_decoded_bytes(train)), bytes_in_words(needs.total)
        context.reporter.note(
            f"memory of {device}: {images} of images, decoded, and {training} to train, of {bytes_in_words(free)} that"
            " were free"
        )
    if not part:
        return train_batches, None
    return train_batches, Batches(ImageStore(mine, device, where(mine), on_progress), size, _VALID_BATCH_SIZE)


def _num_scored(valid: Samples, workers: Workers) -> int:
    """By the worker who scores most."""
    return max(map(len, parts(len(valid.names), _VALID_BATCH_SIZE, workers.world_size)))


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
        fit=config.data.fit,
        prevalence=tuple(samples.labels.mean(axis=0, dtype=np.float64).round(6).tolist()),
        balance=config.train.balance,
        loss=config.train.loss,
        pos_weight=config.train.pos_weight,
    )


def _describe_data(config: DataConfig, train: Samples, valid: Samples, reporter: Reporter) -> None:
    to_train, to_validate = f"{len(train.names):,}", f"{len(valid.names):,} to validate"
    if train.source == "drawn_faces":
        reporter.note(f"data: {to_train} drawn faces to train on, {to_validate}; real: --data FOLDER")
    else:
        reporter.note(describe({"to train on": train, "to validate": valid}))
    for note in dict.fromkeys(
        (*train.notes, *valid.notes, *_constant(train, "train on"), *_constant(valid, "validate"))
    ):
        reporter.note(note)
    known = train.source in (DRAWN_FACES, "celeba") or {*train.attributes} <= {*ATTRIBUTES}
    if not known and config.flip is None:
        reporter.note("training images are mirrored at random; if labels tell left from right: --set data.flip=false")


def _constant(samples: Samples, purpose: str) -> Iterator[str]:
    """A warning of attributes that are the same in all images, of which nothing can be learned, nor said how well."""
    extremes = zip(samples.attributes, samples.labels.min(axis=0), samples.labels.max(axis=0), strict=True)
    alike = [f"{name} (always {least})" for name, least, most in extremes if least == most]
    if alike:
        attributes = "1 attribute has" if len(alike) == 1 else f"{len(alike)} attributes have"
        images = f"{len(samples.names):,} images"
        yield f"warning: {attributes} one value only in the {images} to {purpose}: {_first_of(alike)}"


def _check_sides(flip: bool | None, attributes: Sequence[str]) -> None:
    """UsageError when images would be mirrored unasked, and their labels tell left from right."""
    sided = [name for name in attributes if tells_sides(name)]
    if flip is None and sided:
        raise UsageError(
            f"labels tell left from right ({_first_of(sided)}), and training mirrors images",
            "train without mirroring: --set data.flip=false (=true, where it does no harm)",
        )


def _first_of(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", …" if len(names) > _NUM_NAMED else "")


def _resolve_keep(config: RunConfig, model: torch.nn.Module) -> Any:
    if config.train.keep != "auto":
        return config.train.keep
    whole = 4 * num_parameters(model) * config.train.num_checkpoints
    return "all" if whole <= _HISTORY_LIMIT_BYTES else "pos_embed"


def _describe_model(config: RunConfig, model: VisionTransformer, context: RunContext) -> None:
    num_workers = context.workers.world_size
    shared = f", {num_workers} workers" if num_workers > 1 else ""
    size = f"{num_parameters(model) / 1e6:.1f} M parameters"
    context.reporter.note(f"model: {config.preset}, {size}, on {describe_device(context.device)}{shared}")


def _warn_of_hours(config: RunConfig, model: VisionTransformer, plan: Plan, step: int, context: RunContext) -> None:
    """Roughly how long a CPU takes, where that is hours: two operations for each weight and token, and twice that in
    the backward pass (arXiv:2001.08361, section 2.1).
    """
    if context.device.type != "cpu":
        return
    tokens = 1 + config.train.patch_keep * config.model.num_patches
    operations = 6 * num_parameters(model) * tokens * plan.batch_size * (plan.num_steps - step)
    hours = operations / (_OPERATIONS_PER_THREAD * torch.get_num_threads() * context.workers.world_size) / 3600
    if hours >= _MANY_HOURS:
        context.reporter.note(
            f"warning: on this CPU that may take {hours:,.0f} hours; --minutes 10 takes ten minutes,"
            f" --preset {DEFAULT_PRESET} is the smallest model, and a GPU is faster"
        )


def _describe_history(config: RunConfig, model: VisionTransformer, plan: Plan, reporter: Reporter) -> None:
    whole = config.train.keep == "all"
    kept = num_parameters(model) if whole else sum(map(torch.numel, history_part(model.state_dict()).values()))
    megabytes = 4 * kept * len(plan.checkpoints) / 1e6
    what = "whole models" if whole else "position embeddings only"
    reporter.note(f"history: {len(plan.checkpoints)} checkpoints, {what}, {megabytes:.0f} MB")


def _where(store: str, device: torch.device) -> str:
    return {
        "device": f"decoded in {'memory' if device.type == 'cpu' else 'the memory of ' + str(device)}",
        "memory": "encoded in memory",
        "disk": "read or drawn as they are needed",
    }[store]
