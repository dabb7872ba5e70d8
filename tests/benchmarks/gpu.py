"""How fast each preset trains on a GPU, in one command: python -m tests.benchmarks gpu

Beside `vitpe train`, of which windows with batches from its data and with one batch again and again take turns (so
their ratio is the share of time that data leaves to the GPU), timm's model of the same shape learns from one batch
that is there already: compiled, bfloat16 autocast, fused AdamW, as many patches dropped. "matrix products alone" is the
GPU's own pace at large products, given to our model's operations: the ratio is vitpe's share of it (MFU).

Then, of `vitpe train`: processor time of the thread that trains, for a step, and what a step asks of the GPU (kernels,
copies, graphs; by torch's profiler), and how long all 162,770 training images of CelebA would take at this pace.

All contenders of a group start and compile side by side and then wait, so that only one computes while it is measured.

    python -m tests.benchmarks.gpu vitpe|timm CASE CELEBA DEVICE SECONDS     one of them; it waits for a line on stdin
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.measure import Row, rows
from vitpe.config import PRESETS, Preset
from vitpe.data.batch import Batch
from vitpe.data.batches import Batches
from vitpe.model.vit import VisionTransformer
from vitpe.training.graph import NUM_WARM_UPS

FIXED: Final = "the same batch again and again"
PRODUCTS: Final = "matrix products alone"
ALL_PATCHES: Final = "reference, all patches"
GROUPS: Final = (("tiny", "laptop", "small"), ("reference", ALL_PATCHES, "base"))
"""Those that are in a GPU's memory together."""
NUM_TRAIN: Final = 162_770  # images of CelebA to train on
_CALLS: Final = ("LaunchKernel", "MemcpyAsync", "MemsetAsync", "GraphLaunch")  # within names of CUDA's functions
_NUM_FIRST: Final = NUM_WARM_UPS + 5
_NUM_PROFILED: Final = 10


def measure(
    celeba: Path, device: str = "cuda", groups: tuple[tuple[str, ...], ...] = GROUPS, seconds: float = 2.0
) -> list[Row]:
    """seconds: of each window. No rows, and a line that says so, where there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu: skipped, no GPU here", file=sys.stderr)
        return []
    name = torch.cuda.get_device_name() if device == "cuda" else device
    pace = _pace_of_products(torch.device(device), 8192 if device == "cuda" else 1024)
    found = []
    for group in groups:
        for case, measured in _measure_group(group, celeba, device, seconds).items():
            rates = measured["vitpe"]["rates"] | measured["timm"]["rates"]
            rates[PRODUCTS] = [pace / operations(_preset(case))] * len(rates["vitpe"])
            found += rows(f"training, {case}, {name}", "images/s", rates)
            facts = measured["vitpe"]["facts"]
            facts["s an epoch of CelebA"] = NUM_TRAIN / statistics.median(rates["vitpe"])
            found += [Row(f"training, {case}, {name}", "vitpe", unit, (value,), 1.0) for unit, value in facts.items()]
    return found


def _preset(case: str) -> Preset:
    if case != ALL_PATCHES:
        return PRESETS[case]
    return replace(PRESETS["reference"], train=replace(PRESETS["reference"].train, patch_keep=1.0))


def _measure_group(group: tuple[str, ...], celeba: Path, device: str, seconds: float) -> dict[str, dict[str, Any]]:
    """What `vitpe` and `timm` wrote for each case: "rates", images a second by contender, and "facts"."""
    with ExitStack() as stack:
        started = {}
        for case in group:
            for contender in ("vitpe", "timm"):
                command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.gpu"]
                command += [contender, case, str(celeba), device, str(seconds)]
                log = stack.enter_context(tempfile.TemporaryFile("w+"))
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
                process = stack.enter_context(subprocess.Popen(command, text=True, **pipes))
                stack.callback(process.kill)
                started[case, contender] = (process, log)
        for process, log in started.values():
            _line(process, log)  # ready
        found: dict[str, dict[str, Any]] = {}
        for (case, contender), (process, log) in started.items():
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            found.setdefault(case, {})[contender] = json.loads(_line(process, log))
            process.wait()
    return found


def _line(process: "subprocess.Popen[str]", log: Any) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        log.seek(0)
        raise RuntimeError(f"{' '.join(map(str, process.args))}\n{log.read()}")  # type: ignore[arg-type]
    return line


def _pace_of_products(device: torch.device, side: int) -> float:
    """Operations a second of large products in bfloat16: the best of some."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        _synchronize(device)
        began = time.perf_counter()
        for _ in range(10):
            left @ right
        _synchronize(device)
        best = min(best, (time.perf_counter() - began) / 10)
    return 2 * side**3 / best


def operations(preset: Preset) -> float:
    """Floating-point operations of the matrix products for an image, forwards and backwards."""
    with torch.device("meta"):  # shapes alone
        model = VisionTransformer(preset.model)
        images = torch.zeros(2, 3, *preset.model.img_size)
        num_kept = round(preset.train.patch_keep * preset.model.num_patches)
        keep = torch.arange(num_kept).expand(2, -1) if preset.train.patch_keep < 1 else None
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # others are not counted
        model(images, keep).sum().backward()
    return float(counter.get_total_flops()) / len(images)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Windows:
    """Times windows of steps of about `seconds` each, between which it waits for the device."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device, self._seconds = device, seconds
        self.num_steps = 0

    def ready(self) -> None:
        """Say that all is compiled, and wait for a line."""
        _synchronize(self._device)
        print("ready", flush=True)
        sys.stdin.readline()

    def calibrate(self, steps: Callable[[int], Any]) -> None:
        """Choose how many steps a window has. steps: does so many."""
        self.num_steps = 5
        rate = self.rate(steps, 1)
        self.num_steps = max(5, round(rate * self._seconds))

    def rate(self, steps: Callable[[int], Any], batch_size: int) -> float:
        """Images a second in a window of steps."""
        _synchronize(self._device)
        began = time.perf_counter()
        steps(self.num_steps)
        _synchronize(self._device)
        return self.num_steps * batch_size / (time.perf_counter() - began)


def timm_model(case: str, device: torch.device, seconds: float) -> dict[str, Any]:
    """Images a second of timm's model, by name."""
    import timm
    from torch.nn.functional import binary_cross_entropy_with_logits

    preset = _preset(case)
    model_config, batch = preset.model, preset.train.batch_size
    torch.set_float32_matmul_precision("high")
    model = timm.models.VisionTransformer(
        img_size=model_config.img_size,
        patch_size=model_config.patch_size,
        embed_dim=model_config.embed_dim,
        depth=model_config.depth,
        num_heads=model_config.num_heads,
        num_classes=model_config.num_classes,
        patch_drop_rate=1 - preset.train.patch_keep,
        drop_path_rate=model_config.drop_path_rate,
    ).to(device)
    forward = torch.compile(model) if device.type == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    images = torch.randn(batch, 3, *model_config.img_size, device=device)
    labels = torch.randint(0, 2, (batch, model_config.num_classes), device=device).float()

    def steps(count: int) -> None:
        for _ in range(count):
            with torch.autocast(device.type, torch.bfloat16):
                logits = forward(images)
            binary_cross_entropy_with_logits(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    steps(3)
    windows = Windows(device, seconds)
    windows.ready()
    windows.calibrate(steps)
    return {"rates": {"timm, compiled": [windows.rate(steps, batch) for _ in range(2)]}, "facts": {}}


class MeasuredBatches(Batches):
    """Training batches from the data and one batch again and again, in turn; writes to stdout how fast each went."""

    seconds = 2.0

    def from_step(self, step: int) -> Generator[Batch, None, None]:
        real = super().from_step(step)
        fixed = next(real)
        windows, rates = Windows(self.store.device, self.seconds), dict[str, list[float]]({"vitpe": [], FIXED: []})
        host_ms: list[float] = []
        yield fixed
        yield from self._take(real, _NUM_FIRST)
        windows.ready()
        # A generator cannot time what is done with its batches in a function: it is done when the next is asked for.
        windows.num_steps, began = 5, time.perf_counter()
        yield from self._take(real, windows.num_steps)
        _synchronize(self.store.device)
        windows.num_steps = max(5, round(windows.num_steps * self.seconds / (time.perf_counter() - began)))
        for name in 2 * list(rates):
            _synchronize(self.store.device)
            began, at = time.perf_counter(), time.thread_time()
            for _ in range(windows.num_steps):
                yield next(real) if name == "vitpe" else fixed
                before, at = at, time.thread_time()
                if name == "vitpe":
                    host_ms.append(1000 * (at - before))
            _synchronize(self.store.device)
            rates[name].append(windows.num_steps * self.batch_size / (time.perf_counter() - began))
        facts = {"host ms a step": statistics.median(host_ms)}
        if self.store.device.type == "cuda":
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                yield from self._take(real, _NUM_PROFILED)
                _synchronize(self.store.device)
            names = [event.name for event in profiler.events() or ()]
            facts["device calls a step"] = sum(any(c in name for c in _CALLS) for name in names) / _NUM_PROFILED
        real.close()
        print(json.dumps({"rates": rates, "facts": facts}), flush=True)
        raise SystemExit(0)

    @staticmethod
    def _take(batches: Generator[Batch, None, None], count: int) -> Generator[Batch, None, None]:
        for _ in range(count):
            yield next(batches)


def main() -> None:
    contender, case, celeba, device, seconds = sys.argv[1:]
    if contender == "timm":
        print(json.dumps(timm_model(case, torch.device(device), float(seconds))), flush=True)
        return
    from vitpe.__main__ import main as vitpe
    from vitpe.training import train as run

    MeasuredBatches.seconds = float(seconds)
    run.Batches = MeasuredBatches  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["vitpe", "train", "--data", celeba, "--run", str(Path(folder) / "run"), "--device", device]
        sys.argv += ["--preset", "reference" if case == ALL_PATCHES else case, "--steps", "1000000"]
        sys.argv += ["--num-valid", "64", "--set", "train.num_evals=1", "--set", "train.num_checkpoints=1"]
        sys.argv += ["--set", f"train.patch_keep={_preset(case).train.patch_keep}"]
        vitpe()


if __name__ == "__main__":
    main()
