"""Give commands options that nobody would give, alone and together: only an answer or an error of two lines may come.

    python -m tests.fuzz.options [--cases 10000] [--first 0]

Case n is made from random.Random(n) alone, so that a number is all it takes to repeat one: --first n --cases 1. The
command runs in this process, in an empty folder beside a tiny data set and a run on it. It may succeed, or end with an
exit code of 1 or 2 and one line of fact and one of hint, whatever was asked for; it may not raise, take 10 seconds of
processor time, or more than a gigabyte of memory. Training that has begun is told to stop after a second. The counts
are printed as one JSON object; the exit code is 1 when a command did anything else.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.helpers import tiny_options, train_tiny, write_celeba
from tests.helpers.in_process import call_vitpe
from vitpe.config import DataConfig, ModelConfig, TrainConfig

TRAIN_SECONDS = 1
MAX_SECONDS = 10
MAX_BYTES = 1 << 30
MAX_LINE = 2_000
REGRESSIONS = (78, 303)
"""Cases that once did what they may not."""

LONG = "a" * 300
WHOLE = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    1000,
    10**6,
    10**9,
    3 * 10**9,
    2**31,
    2**32,
    2**63,
    2**64,
    2**70,
    10**12,
    10**30,
    10**400,
)
NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e300",
    "1e-300",
    "1e400",
    "0.5",
    "-0.0",
    "1e9",
    "0.999999999",
    "9" * 5000,
    "1_0",
    "0x1",
)
WORDS = (
    "",
    " ",
    "abc",
    LONG,
    "\x1b[2J\x9b31m\u202e",
    "é\u0301",
    "[red]x[/y]",
    "$x^2$",
    "\udcff",
    "a\nb",
    "--",
    "-1",
    "None",
)
JSON = (
    "true",
    "null",
    "[]",
    "{}",
    "[1,2]",
    "[[1],2]",
    "[" * 5000,
    '{"a":1}',
    '"x"',
    "[1e400,1,1]",
    "[0.5,0.5,0.5]",
    "[16,24]",
)
PATHS = (*WORDS, ".", "..", "~", "~/x", "~nobody/x", "missing/x", "/dev/null", "/dev/full", "/dev/null/x", "x" * 5000)
SOURCES = ("/dev/zero", "/dev/random", "data", "run", "run/best.safetensors", "run/ckpts", "run/config.json")
LEAVES = [
    f"{section}.{leaf.name}"
    for section, kind in (("model", ModelConfig), ("data", DataConfig), ("train", TrainConfig))
    for leaf in fields(kind)
]

# What an option takes: n a number, w a word, p a place to write to, s something to read, j a setting, - nothing.
OPTIONS: dict[str, dict[str, str]] = {
    "train": {
        "--data": "s",
        "--labels": "s",
        "--num-train": "n",
        "--num-valid": "n",
        "--store": "w",
        "--preset": "w",
        "--init": "s",
        "--epochs": "n",
        "--steps": "n",
        "--batch-size": "n",
        "--seed": "n",
        "--device": "w",
        "--set": "j",
        "--run": "p",
        "--keep": "w",
        "--resume": "-",
        "--init-grid": "w",
        "--pos-weight": "w",
    },
    "eval": {
        "": "s",
        "--data": "s",
        "--labels": "s",
        "--split": "w",
        "--thresholds": "n",
        "--criterion": "w",
        "--calibrate": "w",
        "--device": "w",
        "--format": "w",
        "--sort": "w",
        "--compare": "-",
        "--report": "p",
        "--maps": "p",
        "--gallery": "p",
        "--attributes": "w",
    },
    "predict": {
        "": "s",
        "-0": "-",
        "--stdin-image": "-",
        "--save-crops": "p",
        "--maps": "p",
        "--map-method": "w",
        "--checkpoint": "s",
        "--threshold": "n",
        "--device": "w",
        "--format": "w",
        "--top": "n",
        "--attributes": "w",
    },
    "viz-pe": {
        "": "s",
        "--out": "p",
        "--format": "w",
        "--size": "n",
        "--frame-ms": "n",
        "--cmap": "w",
        "--grid": "w",
        "--per-tile-scale": "-",
        "--compare": "-",
        "--probe": "-",
        "--probe-checkpoints": "n",
        "--probe-images": "n",
        "--device": "w",
    },
    "draw": {"--num-train": "n", "--num-valid": "n", "--num-test": "n", "--seed": "n", "--zip": "-"},
}
KNOWN = (
    "tune",
    "table",
    "json",
    "jsonl",
    "csv",
    "valid",
    "test",
    "f1",
    "platt",
    "tiny",
    "cpu",
    "cuda",
    "memory",
    "all",
)
KNOWN += ("gif", "webp", "2x3", "3x2", "1²x3", "-lift", "Red", "Red,Green", "magma")


@dataclass
class Tally:
    """How often commands answered and refused, and what else happened."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


def arguments(rng: random.Random) -> list[str]:
    """A command with one to three options; what training needs to be tiny comes first, so that they overrule it."""
    command = rng.choice(list(OPTIONS))
    chosen = [command]
    if command == "train":
        chosen += [*tiny_options("data", train__steps=2), "--run", "new"]
    elif command == "viz-pe":
        chosen += ["run", "--out", "new", "--no-stills", "--size", "400"]
    elif command == "predict":
        chosen += ["data/img_align_celeba/000001.jpg", "--checkpoint", "run", "--device", "cpu"]
    elif command == "eval":
        chosen += ["run", "--device", "cpu"]
    elif command == "draw":
        chosen += [_value(rng, "p") if rng.random() < 0.3 else "new", "--num-test", "1"]
    for name in rng.sample(list(OPTIONS[command]), rng.choice((1, 1, 1, 2, 3))):
        kind = OPTIONS[command][name]
        if kind == "-":
            chosen.append(name)
        else:
            value = _setting(rng) if kind == "j" else _value(rng, kind)
            chosen += [f"{name}={value}" if name.startswith("--") else value]
    return chosen


def _value(rng: random.Random, kind: str) -> str:
    number = str(rng.choice((1, 1, -1)) * rng.choice(WHOLE[:-1]))
    pools: dict[str, tuple[str, ...]] = {
        "n": (number, number, number, *NUMBERS, *WORDS[:3]),
        "w": (*KNOWN, *KNOWN, *WORDS, number),
        "p": ("new", "new2.png", *PATHS),
        "s": (*SOURCES, *SOURCES, *PATHS, "data/list_attr_celeba.txt"),
    }
    return rng.choice(pools[kind])


def _setting(rng: random.Random) -> str:
    key = rng.choice([*LEAVES, *LEAVES, *LEAVES, *WORDS, "model", "model.x.y", "preset"])
    value = rng.choice((str(rng.choice((1, -1)) * rng.choice(WHOLE)), *NUMBERS, *JSON, *WORDS, *KNOWN))
    return f"{key}={value}" if rng.random() < 0.95 else key


class Bench:
    """A tiny data set and a run on it, and a folder for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_celeba(folder / "data", 16, 8, 4)
        train_tiny(folder / "data", folder / "run", train__steps=2)

    def run(self, case: int, tally: Tally) -> None:
        """Make the case's command and run it."""
        chosen = arguments(random.Random(case))
        place, before = self.folder / "case" / "here", Path.cwd()
        shutil.rmtree(place.parent, ignore_errors=True)
        place.mkdir(parents=True)
        shutil.copytree(self.folder / "run", place / "run")
        (place / "data").symlink_to(self.folder / "data")
        os.chdir(place)
        began = time.process_time()
        try:
            with time_limit(is_training=chosen[0] == "train"):
                called = call_vitpe(*chosen, HOME=str(place.parent), OMP_NUM_THREADS="1")
            tally.counts[f"{chosen[0]}: {called.code}"] += 1
            if complaint := _complaint(called.code, called.stderr):
                tally.failures.append(f"case {case}, {_shown(chosen)}: {complaint}")
        except BaseException:
            tally.counts[f"{chosen[0]}: failed"] += 1
            tally.failures.append(f"case {case}, {_shown(chosen)}: {traceback.format_exc()[-1500:]}")
        finally:
            os.chdir(before)
            tally.slowest_seconds = max(tally.slowest_seconds, time.process_time() - began)


def _complaint(code: int, stderr: str) -> str:
    """What is wrong with how a command ended, if anything."""
    lines = stderr.splitlines()
    if not all(line.isprintable() for line in lines):
        return f"not printable: {stderr[-300:]!r}"
    if any(len(line) > MAX_LINE for line in lines):
        return "a line without end"
    if code in (1, 2) and [line.partition(":")[0] for line in lines[-2:]] != ["error", "hint"]:
        return f"exit code {code} without a reason: {stderr[-300:]!r}"
    return "" if code in (0, 1, 2, 128 + signal.SIGTERM) else f"exit code {code}"


def _shown(chosen: list[str]) -> str:
    own = [argument for argument in chosen if not argument.startswith("--set=") or argument not in tiny_options("data")]
    return (
        " ".join(argument if len(argument) < 80 else f"{argument[:80]}…" for argument in own)
        .encode("ascii", "backslashreplace")
        .decode()
    )


@contextmanager
def time_limit(is_training: bool) -> Iterator[None]:
    """Training is told to stop after TRAIN_SECONDS of processor time; TimeoutError after MAX_SECONDS."""
    calls = 0

    def tick(*_: object) -> None:
        nonlocal calls
        calls += 1
        if is_training and calls * TRAIN_SECONDS < MAX_SECONDS:
            if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None):
                os.kill(os.getpid(), signal.SIGTERM)
        else:
            raise TimeoutError(f"took {MAX_SECONDS} seconds")

    previous = signal.signal(signal.SIGPROF, tick)
    seconds = TRAIN_SECONDS if is_training else MAX_SECONDS
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


@contextmanager
def bench() -> Iterator[Bench]:
    """In a temporary folder; what the commands import is there already, so that it does not count as theirs."""
    with tempfile.TemporaryDirectory(prefix="vitpe-fuzz-") as name, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"MPLBACKEND": "agg"}))
        made = Bench(Path(name))
        for warm_up in (["eval"], ["predict", "x.jpg"], ["viz-pe", "--out", "new", "--no-stills"], ["draw", "faces"]):
            with contextlib.chdir(made.folder):
                call_vitpe(*[warm_up[0]], *(["run"] if warm_up[0] in ("eval", "viz-pe") else []), *warm_up[1:])
        yield made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally()
    cases = [*REGRESSIONS, *range(options.first, options.first + options.cases)]
    began = time.monotonic()
    with bench() as made:
        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (address_space + MAX_BYTES, resource.RLIM_INFINITY))
        for case in cases:
            made.run(case, tally)
    report: dict[str, Any] = {"cases": len(cases), "counts": dict(sorted(tally.counts.items()))}
    report |= {"seconds": round(time.monotonic() - began, 1), "slowest_seconds": round(tally.slowest_seconds, 3)}
    print(json.dumps(report | {"failures": tally.failures[:20]}))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
