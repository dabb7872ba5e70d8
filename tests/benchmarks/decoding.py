"""Images a second: decoding JPEGs (our path, torchvision.io bare, Pillow), drawing faces, predicting files."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.measure import Row, compare

NUM_IMAGES = 2000


def measure(celeba: Path, repeats: int = 5) -> list[Row]:
    """Every contender works through the same encoded images on as many threads as there are cores."""
    import warnings

    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    from vitpe.data.celeba import find_celeba, read_celeba

    warnings.simplefilter("ignore")
    num_threads = os.cpu_count() or 1
    samples = read_celeba(celeba, "train").take(range(NUM_IMAGES))
    samples.preload()
    found = find_celeba(celeba)
    encoded = [found.files.read(str(found.member(name))) for name in samples.names]
    pool = ThreadPoolExecutor(num_threads)

    def ours() -> float:
        list(pool.map(samples.read, np.array_split(np.arange(NUM_IMAGES), NUM_IMAGES // 50)))
        return NUM_IMAGES

    def bare(data: bytes) -> None:
        decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)

    def pillow(data: bytes) -> None:
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def each(decode) -> float:
        list(pool.map(decode, encoded, chunksize=50))
        return NUM_IMAGES

    contenders = {"vitpe": ours, "torchvision.io": lambda: each(bare), "Pillow": lambda: each(pillow)}
    return compare("decoding", "images/s", contenders, repeats) + _drawing(pool, repeats)


def _drawing(pool: ThreadPoolExecutor, repeats: int) -> list[Row]:
    from vitpe.data.drawn_faces import DrawnFaces

    faces = DrawnFaces("train", 512)

    def draw() -> float:
        list(pool.map(faces.read, np.array_split(np.arange(512), 16)))
        return 512

    return compare("drawing faces", "images/s", {"vitpe": draw}, repeats)
