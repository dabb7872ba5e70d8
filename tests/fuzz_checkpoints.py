"""Damage checkpoints in every way that comes to mind, and read them: only a VitpeError may come of it.

    python -m tests.fuzz_checkpoints [--cases 10000] [--first 0]

Case n is made from random.Random(n) alone, so that a number is all it takes to repeat one: --first n --cases 1. Each
damaged file is read by every reader there is. A reader may accept it (a flipped bit of a weight is a weight) or raise a
VitpeError of one short line that names the file; it may not raise or warn of anything else, take 5 seconds of processor
time, or a gigabyte of memory. The counts are printed as one JSON object; the exit code is 1 when a reader did anything
else.
"""

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.helpers import COLOURS, Recorder, tiny_config
from vitpe.config import CELEBA_MEAN, CELEBA_STD, ModelConfig
from vitpe.errors import VitpeError
from vitpe.model.vit import VisionTransformer
from vitpe.training.checkpoint import CheckpointInfo, load_checkpoint, read_info, save_checkpoint, write_tensors
from vitpe.training.distributed import Workers
from vitpe.training.loop import Plan, Trainer
from vitpe.training.run import initialize
from vitpe.training.run_folder import RunFolder
from vitpe.training.state import Progress, load_state, save_state
from vitpe.viz.history import read_checkpoint
from vitpe.viz.numbers import Numbers, checkpoint_record

MAX_SECONDS = 5
MAX_BYTES = 1 << 30
MAX_MESSAGE = 1000
REGRESSIONS = (3, 10, 37, 107, 115, 169, 192, 242, 340, 1870)
"""Cases that once did what they may not."""

Parts = tuple[Any, bytes]
"""A safetensors file's header (JSON) and data."""


@dataclass
class Tally:
    """How often each reader accepted and refused, and what else happened."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0

    def fail(self, reader: str, text: str) -> None:
        self.counts[f"{reader}: failed"] += 1
        self.failures.append(text)


class Bench:
    """Whole files to damage, and the readers."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        config = tiny_config("data", model__num_classes=len(COLOURS))
        model = VisionTransformer(config.model)
        info = _info(config.model)
        run = RunFolder(folder)
        self.path = run.state
        self.path.parent.mkdir()
        self._named = (self.path, run.path)  # a state of other data is the run's fault, not the file's
        plan = Plan.of(config.train, num_images=24)
        self._trainer = Trainer(
            config.train, model, info, plan, run, torch.device("cpu"), Workers(), Recorder(), "fingerprint"
        )
        scores = {"mean_accuracy": 0.9, "mean_average_precision": 0.8}
        progress = Progress("fingerprint", 4, 2, scores, scored_step=4, best_score=0.9, best_step=4)
        optimizer = {name: value + 1 for name, value in self._trainer._optimizers.expected_state().items()}
        state = replace(self._trainer.state(), progress=progress, optimizer=optimizer, loss_sums=torch.tensor([1.25]))
        self.whole = []
        foreign = {"format": "pt", "other": json.dumps({"model": {"depth": 1, "img_size": [16, 24]}})}
        for write in (
            lambda: save_checkpoint(self.path, model.state_dict(), info),
            lambda: save_checkpoint(self.path, model.state_dict(), _info(config.model, history_only=True)),
            lambda: save_state(self.path, state),
            lambda: write_tensors(self.path, _hugging_face_model(config.model).state_dict(), foreign),
        ):
            write()
            self.whole.append(self.path.read_bytes())
        self.readers: dict[str, Callable[[Path], object]] = {
            "load_checkpoint": load_checkpoint,
            "read_info": read_info,
            "init": lambda path: initialize(VisionTransformer(config.model), path, Recorder()),
            "load_state": lambda path: self._trainer.restore(load_state(path)),
            "viz": _numbers_of,
        }

    def run(self, case: int, tally: Tally) -> None:
        """Make the case's file and let every reader have it."""
        rng = random.Random(case)
        damage = rng.choice(DAMAGES)
        self.path.write_bytes(damage(rng, rng.choice(self.whole)))
        for name, read in self.readers.items():
            began = time.process_time()
            try:
                with time_limit(), warnings.catch_warnings():
                    warnings.simplefilter("error")
                    read(self.path)
                tally.counts[f"{name}: read"] += 1
            except VitpeError as error:
                tally.counts[f"{name}: refused"] += 1
                text = error.message
                named = any(str(path) in text for path in self._named)
                if not named or not error.hint or not text.isprintable() or len(text) > MAX_MESSAGE:
                    tally.fail(name, f"case {case}, {name}: {error.message[:MAX_MESSAGE]!r}")
            except BaseException:
                tally.fail(name, f"case {case}, {name}: {traceback.format_exc()}")
            tally.slowest_seconds = max(tally.slowest_seconds, time.process_time() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally()
    cases = [*REGRESSIONS, *range(options.first, options.first + options.cases)]
    with tempfile.TemporaryDirectory(prefix="vitpe-fuzz-") as folder:
        bench = Bench(Path(folder))
        for data in bench.whole:  # so that what readers import and keep does not count as theirs
            bench.path.write_bytes(data)
            for read in bench.readers.values():
                try:
                    read(bench.path)
                except VitpeError:
                    continue
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        began, memory = time.monotonic(), peak_memory()
        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (address_space + MAX_BYTES, resource.RLIM_INFINITY))
        for case in cases:
            bench.run(case, tally)
    print(
        json.dumps(
            {
                "cases": len(cases),
                "counts": dict(sorted(tally.counts.items())),
                "seconds": round(time.monotonic() - began, 1),
                "slowest_seconds": round(tally.slowest_seconds, 3),
                "memory_mb": (peak_memory() - memory) // 10**6,
                "failures": tally.failures[:20],
            }
        )
    )
    return 1 if tally.failures else 0


def peak_memory() -> int:
    """Bytes of this process that were in memory at once, at most."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@contextmanager
def time_limit() -> Iterator[None]:
    """TimeoutError when what is within computes for longer than MAX_SECONDS; a busy machine does not count."""

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"took {MAX_SECONDS} seconds")

    previous = signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def _info(model: ModelConfig, history_only: bool = False) -> CheckpointInfo:
    return CheckpointInfo(
        model=model,
        attributes=COLOURS,
        mean=CELEBA_MEAN,
        std=CELEBA_STD,
        thresholds=(0.5,) * len(COLOURS),
        stored_size=(218, 178),
        step=4,
        images_seen=32,
        seed=0,
        data_source="celeba",
        valid={"mean_accuracy": 0.9},
        history_only=history_only,
    )


def _hugging_face_model(model: ModelConfig) -> transformers.ViTForImageClassification:
    """Somebody else's weights for our model, but for its pos_embed, which is of another grid."""
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=model.embed_dim,
            num_hidden_layers=model.depth,
            num_attention_heads=model.num_heads,
            intermediate_size=round(model.embed_dim * model.mlp_ratio),
            image_size=16,
            patch_size=model.patch_size,
        )
    )


def _numbers_of(path: Path) -> object:
    """What viz-pe reads of a checkpoint and tells in words and numbers, all but the painting."""
    checkpoint = read_checkpoint(path)
    shown = "" if checkpoint.images_seen is None else f"{checkpoint.images_seen:,}"
    record = checkpoint_record(checkpoint, Numbers(*[None] * len(fields(Numbers))))
    return checkpoint.label, shown, json.dumps(record, allow_nan=False)


def _split(data: bytes) -> Parts:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _join(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def _flip(rng: random.Random, data: bytes, end: int) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    return _flip(rng, data, len(data))


def flip_header_bits(rng: random.Random, data: bytes) -> bytes:
    return _flip(rng, data, 8 + int.from_bytes(data[:8], "little"))


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 1, 7, 8, 9, rng.randrange(200), rng.randrange(len(data)), len(data) - 1))]


def extend(rng: random.Random, data: bytes) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 4096)))


def zero_a_block(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((16, 512, 4096))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def change_header_length(rng: random.Random, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    changed = rng.choice((0, 1, 2, length - 1, length + 1, len(data), 10**8, 10**8 + 1, 2**31, 2**63, 2**64 - 1))
    return changed.to_bytes(8, "little") + data[8:]


def garbage(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.choice((1, 8, 100, 10_000)))


def nest_deeply(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    nested = rng.choice(("[", '{"a":')) * rng.choice((100, 1_000, 100_000))
    if rng.random() < 0.5:
        key = _metadata_key(header)
        header["__metadata__"][key] = nested
        return _join(header, values)
    return len(nested).to_bytes(8, "little") + nested.encode() + values


def edit_header(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    for _ in range(rng.choice((1, 1, 3))):
        header = _edit(rng, header)
    return _join(header, values)


def edit_metadata(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    key = _metadata_key(header)
    inner = json.loads(header["__metadata__"][key])
    for _ in range(rng.choice((1, 1, 3))):
        inner = _edit(rng, inner)
    header["__metadata__"][key] = json.dumps(inner)
    return _join(header, values)


def damage_metadata_text(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    key = _metadata_key(header)
    text = list(header["__metadata__"][key])
    for _ in range(rng.choice((1, 3))):
        at = rng.randrange(len(text))
        text[at : at + rng.choice((0, 1, 5))] = rng.choice(("", '"', "}", "1e999", "9" * 5000, "null", "\\u0000", "\n"))
    header["__metadata__"][key] = "".join(text)
    return _join(header, values)


def change_the_grid(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    key = _metadata_key(header)
    inner = json.loads(header["__metadata__"][key])
    inner["grid_size"] = rng.choice(([-2, -3], [3, 2], [1, 6], [6, True], [0, 0], [2.0, 3], [2, 3, 1], [6], "2x3"))
    header["__metadata__"][key] = json.dumps(inner)
    return _join(header, values)


def bloat(rng: random.Random, data: bytes) -> bytes:
    """Much text that is sound JSON, where little is expected."""
    header, values = _split(data)
    text = rng.choice(("[]", "{}", "0", '"x"'))
    text = "[" + ",".join([text] * (rng.choice((1_000, 100_000)) if rng.random() < 0.98 else 15_000_000)) + "]"
    if rng.random() < 0.2:
        return len(text).to_bytes(8, "little") + text.encode() + values
    key = _metadata_key(header)
    whole = header["__metadata__"][key]
    header["__metadata__"][key] = rng.choice(
        (text, whole[:-1] + f', "valid": {text}}}', whole[:-1] + f', "x": {text}}}')
    )
    return _join(header, values)


def name_many_tokens(rng: random.Random, data: bytes) -> bytes:
    """Tensors without a value that are called class tokens."""
    header, values = _split(data)
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    for number in range(rng.choice((1, 3, 40))):
        header[f"{number}.cls_token"] = {"dtype": "F32", "shape": [2**number, 0], "data_offsets": [end, end]}
    return _join(header, values)


def claim_a_giant(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    key = _metadata_key(header)
    inner = json.loads(header["__metadata__"][key])
    model = inner.get("model", inner)  # a state has none
    for name in rng.sample(sorted(model), rng.choice((1, 2))):
        giant: Any = rng.choice((2**16, 2**31, 2**40, 2**64, 10**30, 1e30, 1e308))
        model[name] = [giant, giant] if isinstance(model[name], list) else giant
    header["__metadata__"][key] = json.dumps(inner)
    return _join(header, values)


def change_a_tensor(rng: random.Random, data: bytes) -> bytes:
    """Another name, shape or type of the same number of bytes: the file stays a sound safetensors file."""
    header, values = _split(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header.pop(name)
    shape = entry["shape"]
    kind = rng.randrange(6)
    if kind == 0:
        name = rng.choice(
            ("head.weight", "module." + name, "", "a\nb", "blocks.999999999.mlp.fc1.weight", "optimizer/x")
        )
    elif kind == 1:
        entry["shape"] = shape[::-1]
    elif kind == 2:
        entry["shape"] = [1, *shape]
    elif kind == 3 and shape:
        entry |= {"dtype": rng.choice(("F16", "BF16", "I16", "U16")), "shape": [*shape[:-1], 2 * shape[-1]]}
    elif kind == 4:
        entry["dtype"] = rng.choice(("I32", "U32", "F8_E4M3", "BOOL", "F4", "C64", "F31"))
    else:
        entry["dtype"], entry["shape"] = "U8", [4 * _product(shape)]
    header[name] = entry
    return _join(header, values)


def make_a_value_infinite(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    at = 4 * rng.randrange(len(values) // 4)
    bad = rng.choice((b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"))
    return _join(header, values[:at] + bad + values[at + 4 :])


DAMAGES = (
    flip_bits,
    flip_header_bits,
    truncate,
    extend,
    zero_a_block,
    change_header_length,
    garbage,
    nest_deeply,
    edit_header,
    edit_header,
    edit_metadata,
    edit_metadata,
    damage_metadata_text,
    claim_a_giant,
    change_a_tensor,
    change_a_tensor,
    make_a_value_infinite,
    change_the_grid,
    bloat,
    name_many_tokens,
)


def _metadata_key(header: Any) -> str:
    return next(key for key in header["__metadata__"] if key != "format")


def _product(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _edit(rng: random.Random, value: Any) -> Any:
    """One value somewhere inside, or the whole of it, replaced, removed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if rng.random() < 0.1:
            return value | {rng.choice(("", "x", key + key, "a\nb")): value[key]}
        return value | {key: _edit(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], *([] if rng.random() < 0.2 else [_edit(rng, value[at])]), *value[at + 1 :]]
    junk: tuple[Any, ...] = (None, True, "", "x", "\ud800", -1, 0, 1, 0.5, 2**31, 2**63, 10**30, 10**400, 1e308, [], {})
    return rng.choice((*junk, float("nan"), float("inf"), [[]], {"a": 1}, [1, 2, 3], "9" * 5000))


if __name__ == "__main__":
    sys.exit(main())
