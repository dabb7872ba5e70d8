"""Kill training at every moment, resume it, and compare what it leaves with a run that was never interrupted.

    python -m tests.fuzz.torture [--kills 120] [--points 0] [--seed 0]

One process imports torch once and forks the runs, which are small and take about a second. A run is forked, killed,
forked again with resume, …, until it ends by itself. Two ways to choose the moment:

- at random: SIGKILL, and now and then SIGTERM, SIGINT or SIGHUP, after a random time;
- at a write point: SIGKILL just before or after the n-th fsync, rename or removal of a file. Before an fsync the file
  loses its second half first, as it may when the power fails.

After each kill every file that has its final name must be whole. At the end all files must be equal to the
uninterrupted run's, byte for byte, the two columns of metrics.csv that hold timings aside. The counts are printed as
one JSON object; the exit code is 1 when anything differed.
"""

import argparse
import csv
import io
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import vitpe.training.loop
from tests.helpers import Recorder, contents, tiny_config, write_celeba
from vitpe.config import RunConfig
from vitpe.errors import VitpeError
from vitpe.runs.checkpoint import load_checkpoint, read_tensors
from vitpe.runs.folder import METRIC_COLUMNS, TIMING_COLUMNS, RunFolder
from vitpe.runs.metadata import read_info
from vitpe.runs.state import load_state
from vitpe.training.background import Interrupted
from vitpe.training.plan import Plan
from vitpe.training.train import train

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "train__ema_decay": 0.9,
        "train__label_smoothing": 0.1,
        "train__patch_keep": 0.5,
        "train__precision": "bf16",
        "train__whiten": True,
        "train__keep": "pos_embed",
        "train__seed": 7,
        "model__drop_path_rate": 0.3,
        "model__depth": 2,
        "data__store": "disk",
    },
}
STATE_INTERVALS = (0.0, 0.05, 1e9)
"""Seconds between states: at each step, now and then, only where a step needs one."""


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class Tally:
    """What was done, and what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def check(self, condition: bool, text: str) -> None:
        if not condition:
            self.failures.append(text)


@dataclass
class Case:
    """A configuration, and what it leaves when nothing interrupts it, after how many write points.

    seconds: that a process lives, about; it follows the machine, which may be busy now and idle later.
    """

    name: str
    config: RunConfig
    expected: dict[str, bytes]
    seconds: float
    num_points: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120, help="SIGKILLs at random times")
    parser.add_argument("--points", type=int, default=0, help="write points to kill at; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.set_num_threads(1)
    tally = Tally()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vitpe-torture-") as name:
        scratch = Path(name)
        data = write_celeba(scratch / "celeba")
        train(tiny_config(data), scratch / "warm-up", torch.device("cpu"), Recorder())  # what is imported lazily
        cases = [make_case(name, data, scratch, values) for name, values in VARIANTS.items()]
        for case in cases:
            kill_at_points(case, scratch / "run", rng, options.points // len(cases), tally)
        while tally.counts["SIGKILL at a random time"] < options.kills and len(tally.failures) < 10:
            kill_at_random(rng.choice(cases), scratch / "run", rng, tally)
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"counts": dict(sorted(tally.counts.items())), "seconds": seconds, "failures": tally.failures}))
    return 1 if tally.failures else 0


def make_case(name: str, data: Path, scratch: Path, values: dict[str, Any]) -> Case:
    """Run uninterrupted, twice over where it matters: equal results must not need equal state intervals."""
    config = tiny_config(data, train__steps=30, train__num_checkpoints=8, train__num_evals=5, **values)
    results = []
    point_file = scratch / "points"
    for interval in (STATE_INTERVALS[0], STATE_INTERVALS[-1]):
        folder = scratch / f"reference-{name}-{interval}"
        began = time.monotonic()
        pid = start(config, folder, interval, lambda: count_points(point_file))
        assert wait(pid) == 0, errors_of(folder).read_text()
        results.append((comparable(folder), time.monotonic() - began, int(point_file.read_text())))
        shutil.rmtree(folder)
    assert results[0][0] == results[1][0], "two uninterrupted runs differ"
    expected, seconds, num_points = results[0]
    return Case(name, config, expected, seconds, num_points)


def kill_at_random(case: Case, folder: Path, rng: random.Random, tally: Tally) -> None:
    """One run from its start to its end."""
    while True:
        pid = start(case.config, folder, rng.choice(STATE_INTERVALS))
        number = rng.choices(SIGNALS, [0.7, 0.1, 0.1, 0.1])[0]
        ended = ends_within(pid, rng.uniform(0, 1.5 * case.seconds))
        case.seconds *= 0.9 if ended else 1.1  # so that about every second one is told to stop before it ends
        os.kill(pid, number)
        code = wait(pid)
        if number == signal.SIGKILL and code == -signal.SIGKILL:
            tally.counts["SIGKILL at a random time"] += 1
        elif code in (128 + number, -number):
            tally.counts[f"{number.name} at a random time"] += 1
        elif code == 0:
            break
        else:
            tally.failures.append(f"{case.name}: exit code {code}: {errors_of(folder).read_text()}")
        check_folder(folder, tally)
    finish(case, folder, tally)


def kill_at_points(case: Case, folder: Path, rng: random.Random, num_points: int, tally: Tally) -> None:
    """For each write point a run that dies there, then at another one while it resumes, and then ends."""
    points = range(1, case.num_points + 1)
    for point in sorted(rng.sample(points, num_points)) if num_points else points:
        for stop_at in (point, rng.randint(1, case.num_points // 2)):
            code = wait(start(case.config, folder, 0.0, lambda stop_at=stop_at: count_points(None, stop_at)))
            tally.check(code in (-signal.SIGKILL, 0), f"{case.name}, point {stop_at}: exit code {code}")
            tally.counts["SIGKILL at a write point"] += code == -signal.SIGKILL
            check_folder(folder, tally)
        code = wait(start(case.config, folder, 0.0))
        tally.check(code == 0, f"{case.name}, point {point}: exit code {code}: {errors_of(folder).read_text()}")
        finish(case, folder, tally)


def finish(case: Case, folder: Path, tally: Tally) -> None:
    """Compare a run that ended with the uninterrupted one, and remove it."""
    if sys.stderr.isatty():
        print(f"\r{dict(tally.counts)}", end="", file=sys.stderr)
    left = comparable(folder)
    differing = sorted(name for name in left.keys() | case.expected.keys() if left.get(name) != case.expected.get(name))
    tally.check(not differing, f"{case.name}: {', '.join(differing)} differ from the uninterrupted run's")
    tally.counts["runs that ended equal to the uninterrupted one"] += not differing
    shutil.rmtree(folder)


def start(config: RunConfig, folder: Path, state_interval: float, prepare: Callable[[], None] | None = None) -> int:
    """Fork a process that trains, or goes on training, into `folder`; returns its id."""
    errors_of(folder).write_text("")
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if prepare is not None:
            prepare()
        torch.set_num_threads(1)  # torch makes its threads anew after a fork, which two threads must not do at once
        vitpe.training.loop.STATE_INTERVAL_SECONDS = state_interval
        train(config, folder, torch.device("cpu"), Recorder(), resume=RunFolder(folder).exists)
        code = 0
    except Interrupted as error:
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        errors_of(folder).write_text(traceback.format_exc())
    finally:
        os._exit(code)


def errors_of(folder: Path) -> Path:
    """Where a run that raises what it should not leaves its traceback."""
    return folder.with_suffix(".errors")


def ends_within(pid: int, seconds: float) -> bool:
    """Whether a process ends in that time; it stays to be waited for."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(min(left, 0.005))
    return False


def wait(pid: int) -> int:
    """The exit code, or minus the signal that ended the process."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def count_points(report: Path | None, stop_at: int | None = None) -> None:
    """From now on count write points, into the file `report`; with stop_at, die at that one."""
    reached = 0

    def point(tear: int | None = None) -> None:
        nonlocal reached
        reached += 1
        if report is not None:
            report.write_text(str(reached))
        if reached == stop_at:
            if tear is not None:
                os.ftruncate(tear, os.fstat(tear).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., Any], tears: bool) -> Callable[..., Any]:
        def wrapped(target: Any, *arguments: Any, **options: Any) -> Any:
            is_file = tears and stat.S_ISREG(os.fstat(target).st_mode)
            point(target if is_file else None)
            result = call(target, *arguments, **options)
            point()
            return result

        return wrapped

    setattr(os, "fsync", around(os.fsync, tears=True))  # noqa: B010
    setattr(Path, "replace", around(Path.replace, tears=False))  # noqa: B010
    setattr(Path, "unlink", around(Path.unlink, tears=False))  # noqa: B010


def check_folder(path: Path, tally: Tally) -> None:
    """What must hold at any moment: files with a final name are whole, and the state finds what came before it."""
    run = RunFolder(path)
    tally.counts["kills while a file was being written"] += any(path.rglob("*.partial"))
    try:
        steps = check_metrics(run.metrics) if run.metrics.exists() else []
        frames = {int(file.stem[5:]) for file in run.checkpoints.glob("step-*.safetensors")}
        for file in (*run.checkpoints.glob("step-*.safetensors"), *run.best.parent.glob("best.safetensors")):
            if read_info(file).history_only:
                read_tensors(file)
            else:
                load_checkpoint(file)
        if run.exists:
            state = load_state(run.state).progress
            plan = Plan.of(run.read_config().train, num_images=24)
            past = set(range(state.step + 1)) if state.step else set()
            tally.check(past & plan.logs <= set(steps), f"{path}: rows {steps} before step {state.step}")
            tally.check(past & plan.checkpoints <= frames, f"{path}: frames {frames} before step {state.step}")
            best = read_info(run.best).step if run.best.exists() else 0
            tally.check(best <= state.step, f"{path}: best of step {best} after the state of step {state.step}")
        else:
            tally.check(not frames and not steps, f"{path}: frames {frames} or rows {steps} of no run")
    except (VitpeError, ValueError) as error:
        tally.failures.append(f"{path}: {error}")


def check_metrics(path: Path) -> list[int]:
    """The steps of its rows; ValueError for a torn row or a step that does not grow."""
    text = path.read_text()
    rows = list(csv.reader(io.StringIO(text)))
    steps = [int(row[0]) for row in rows[1:]]
    if (
        rows[0] != list(METRIC_COLUMNS)
        or not text.endswith("\n")
        or {len(row) for row in rows} != {len(METRIC_COLUMNS)}
    ):
        raise ValueError(f"{path} is torn: {text!r}")
    if steps != sorted(set(steps)):
        raise ValueError(f"{path} has steps {steps}")
    return steps


def comparable(folder: Path) -> dict[str, bytes]:
    """Every file of a run with its bytes, but the lock and the page, which shows timings; metrics.csv without those."""
    files = contents(folder, ignore=(".lock", "report.html"))
    rows = csv.DictReader(io.StringIO(files["metrics.csv"].decode()))
    stable = [{key: value for key, value in row.items() if key not in TIMING_COLUMNS} for row in rows]
    return files | {"metrics.csv": json.dumps(stable).encode()}


if __name__ == "__main__":
    sys.exit(main())
