"""`vitpe predict` on many JPEGs against what it is made of: bare decoding and bare inference, in one run.

All three use as many threads as there are cores, and bare inference the quickest batch size and arrangement of threads.
Beside images a second of wall time stand images a second of
processor time, which other work on the machine disturbs less.
"""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.measure import Row, rows
from vitpe.celeba import ATTRIBUTES, MEAN, STD
from vitpe.config import PRESETS
from vitpe.data.celeba import find_celeba, read_celeba
from vitpe.inference.inputs import Input
from vitpe.inference.predict import Listing, Predictor, predict_files
from vitpe.inference.torch_engine import TorchEngine
from vitpe.model.vit import VisionTransformer
from vitpe.reporting import records
from vitpe.runs.checkpoint import save_checkpoint
from vitpe.runs.metadata import CheckpointInfo
from vitpe.runs.weights import load_arrays

NUM_IMAGES = 10_000
CPU = torch.device("cpu")


def measure(celeba: Path, num_images: int = NUM_IMAGES, repeats: int = 3, preset_name: str = "tiny") -> list[Row]:
    """Ratios are vitpe / this one; "the slower" is what the pipeline is held against."""
    num_threads = os.cpu_count() or 1
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(num_threads) as pool:
        files, encoded = _write_images(celeba, Path(folder), num_images)
        checkpoint = Path(folder) / "model.safetensors"
        model = write_model(checkpoint, preset_name)
        weights, info = load_arrays(checkpoint)
        predictor = Predictor(TorchEngine(weights, info, CPU), info, Listing.of(info))
        images = torch.randn(64, 3, *model.config.img_size)

        def vitpe() -> int:
            inputs = map(Input, islice(cycle(map(str, files)), num_images))
            with Path(os.devnull).open("w") as sink:
                for line in records.predictions_jsonl(predict_files(predictor, inputs)):
                    sink.write(line)
                    sink.flush()
            return num_images

        def decoding() -> int:
            list(pool.map(_decode_all, [list(part) for part in np.array_split(np.array(encoded, dtype=object), 100)]))
            return len(encoded)

        def infer(batch_size: int, num_rounds: int, threads_each: int) -> int:
            torch.set_num_threads(threads_each)
            with torch.inference_mode():
                for _ in range(num_rounds):
                    for start in range(0, len(images), batch_size):
                        model(images[start : start + batch_size])
            torch.set_num_threads(1)
            return num_rounds * len(images)

        def together(batch_size: int, num_rounds: int = 8) -> int:
            """Batch after batch, each on all cores."""
            return infer(batch_size, num_rounds, num_threads)

        def apart(batch_size: int, num_rounds: int = 8) -> int:
            """As many batches at a time as there are cores, each on one."""
            shares = [num_rounds // num_threads] * num_threads
            return sum(pool.map(lambda rounds: infer(batch_size, rounds, 1), shares))

        arrangements = [(way, size) for way in (together, apart) for size in (8, 16, 32, 64)]
        pace = {(way, size): min(_pace(partial(way, size)) for _ in range(3)) for way, size in arrangements}
        way, best = min(pace, key=lambda each: pace[each])
        contenders: dict[str, Callable[[], int]] = {
            "vitpe": vitpe,
            "bare decoding": decoding,
            f"bare inference, batches of {best} {way.__name__}": lambda: way(best, 32),
        }
        wall: dict[str, list[float]] = {name: [] for name in contenders}
        cpu: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(repeats):
            for name, work in contenders.items():
                amount, wall_s, cpu_s = _timed(work)
                wall[name].append(amount / wall_s)
                cpu[name].append(amount / cpu_s)
    torch.set_num_threads(before)
    parts = [name for name in contenders if name != "vitpe"]
    wall["the slower"] = [min(rates) for rates in zip(*(wall[name] for name in parts), strict=True)]
    cpu["both bare"] = [
        1 / sum(1 / rate for rate in rates) for rates in zip(*(cpu[name] for name in parts), strict=True)
    ]
    return rows(f"predicting, {preset_name}", "images/s", wall) + rows(
        f"predicting, {preset_name}, processor time", "images/s", cpu
    )


def _timed(work: Callable[[], int]) -> tuple[int, float, float]:
    """(what it returned, wall seconds, processor seconds of all threads)"""
    wall, cpu = time.perf_counter(), time.process_time()
    amount = work()
    return amount, time.perf_counter() - wall, time.process_time() - cpu


def _pace(work: Callable[[], int]) -> float:
    """Wall seconds for each of the images that `work` counts."""
    amount, wall_s, _ = _timed(work)
    return wall_s / amount


def _decode_all(images: list[bytes]) -> list[Tensor]:
    import torchvision.io  # noqa: F401  registers torch.ops.image; its public function would warn at each call

    decode = torch.ops.image.decode_jpeg.default
    return [decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), 3, False) for data in images]


def _write_images(celeba: Path, folder: Path, num_images: int) -> tuple[list[Path], list[bytes]]:
    found = find_celeba(celeba)
    names = read_celeba(celeba, "train").names[:num_images]
    encoded = [found.files.read(str(found.member(name))) for name in names]
    files = [folder / Path(name).name for name in names]
    for file, data in zip(files, encoded, strict=True):
        file.write_bytes(data)
    return files, encoded


def write_model(path: Path, preset_name: str) -> VisionTransformer:
    """A new model in a checkpoint: how fast it is does not depend on what it has learned."""
    model = VisionTransformer(PRESETS[preset_name].model).eval()
    count = len(ATTRIBUTES)
    info = CheckpointInfo(
        model.config, ATTRIBUTES, MEAN, STD, (0.5,) * count, (218, 178), 0, 0, 0, data_source="celeba"
    )
    save_checkpoint(path, model.state_dict(), info)
    return model
