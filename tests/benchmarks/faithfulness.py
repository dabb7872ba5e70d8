"""Whether maps of answers say what the model goes by: patches are deleted and inserted, and drawn faces tell the truth.

    python -m tests.benchmarks.faithfulness RUN CELEBA [--images 200]    curves on photos of valid
    python -m tests.benchmarks.faithfulness RUN drawn [--images 200]     curves on drawn faces, and pointing

**Curves** (arXiv:1806.07421, section 4.2, by patches): the patches of an image are taken away, the first in the map's
order first, and the probability of the answer that was given is averaged over shares of 0 to 90 % that are gone
(deletion: low where the map is right) or of 10 to 100 % that are there (insertion: high). What is taken away gets no
token, as patch dropout teaches, or the mean colour that the model was trained with; the first favours "occlusion",
which asks the same of each patch alone, the second no method. Of each image, up to two answers "present" and two
"absent", at random.

**Pointing** (as the pointing game of arXiv:1608.00507): a drawn face is painted again without an attribute, and the
largest value of the map of the answer "present" should lie on a patch that changed: one whose change of colour is
at least a quarter of the largest patch's. Attributes that change more than half of the patches are left out.

Against: "random", the same for all; "prior", an attribute's mean map by "occlusion" over all other images with the same
answer, which knows where faces have what, and nothing of this one. Intervals are of 95 %, over images; that of the mean
of attributes is over attributes.
A table, then a line of JSON.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from vitpe.celeba import ATTRIBUTES
from vitpe.config import DataConfig, ModelConfig
from vitpe.data.drawn_faces import DrawnFaces
from vitpe.data.images import Pixels, center_crop
from vitpe.data.samples import Samples, stored_size
from vitpe.data.sources import open_samples
from vitpe.inference.maps import map_values
from vitpe.inference.torch_engine import TorchEngine
from vitpe.launch import num_cpus
from vitpe.metrics.thresholds import sigmoid
from vitpe.reporting.records import plain
from vitpe.runs.find import weights_file
from vitpe.runs.metadata import CheckpointInfo
from vitpe.runs.weights import load_arrays

Floats = NDArray[np.float64]
Probs = Callable[[NDArray[np.intp]], Floats]
"""Kept patches (M, K), of answer m in row m → the probability (M,) of that answer."""

FRACTIONS = np.arange(10) / 10
EACH = 2  # answers "present", and answers "absent", of an image
MIN_CHANGE, MAX_CHANGED = 0.25, 0.5
BATCH = 8
T = TypeVar("T")
R = TypeVar("R")


def curves(probs: Probs, maps: Floats) -> tuple[float, float]:
    """(deletion, insertion) of maps (M, N): mean probabilities."""
    num_patches = maps.shape[1]
    order = np.argsort(-maps, axis=1, kind="stable")
    gone = np.rint(FRACTIONS * num_patches).astype(int)
    deletion = [probs(np.sort(order[:, k:], axis=1)).mean() for k in gone]
    insertion = [probs(np.sort(order[:, : num_patches - k], axis=1)).mean() for k in gone]
    return float(np.mean(deletion)), float(np.mean(insertion))


def without_tokens(engine: TorchEngine, image: Pixels, columns: NDArray[np.intp], signs: Floats) -> Probs:
    """Patches that are gone get no token."""
    kept_logits = engine.kept_logits(image)
    rows = np.arange(len(columns))
    return lambda keep: sigmoid(signs * kept_logits(keep)[rows, columns])


def mean_colour(
    engine: TorchEngine, info: CheckpointInfo, image: Pixels, columns: NDArray[np.intp], signs: Floats
) -> Probs:
    """Patches that are gone are painted over with the mean of the training images."""
    (rows, across), side = info.model.grid_size, info.model.patch_size
    colour = np.rint(255 * np.array(info.mean)).astype(np.uint8)[:, None, None]

    def probs(keep: NDArray[np.intp]) -> Floats:
        there = np.zeros((len(keep), rows * across), dtype=bool)
        np.put_along_axis(there, keep, True, axis=1)
        masks = there.reshape(-1, rows, across).repeat(side, axis=1).repeat(side, axis=2)
        logits = engine.classify([np.where(mask, image, colour) for mask in masks])
        return sigmoid(signs * logits[np.arange(len(columns)), columns])

    return probs


@dataclass(frozen=True)
class Subject:
    """An image, its logits (A,), and each method's maps (A, N) of the answers that were given."""

    image: Pixels
    logits: Floats
    maps: dict[str, Floats]

    @property
    def signs(self) -> Floats:
        return np.where(self.logits >= 0, 1.0, -1.0)


def subjects_of(engine: TorchEngine, info: CheckpointInfo, images: Sequence[Pixels]) -> list[Subject]:
    """With maps by all methods that the model has, "random" and "prior"."""
    random = np.random.default_rng(0)
    columns = range(len(info.attributes))

    def maps_of(batch: Sequence[Pixels]) -> list[Subject]:
        logits = engine.classify(batch)
        signs = np.where(logits >= 0, 1.0, -1.0)
        fall = [
            map_values(engine, info.model, image, columns, sign, "occlusion")
            for image, sign in zip(batch, signs, strict=True)
        ]
        maps = {"occlusion": np.array(fall), "relevance": engine.relevance(batch, columns, signs)}
        if info.model.global_pool == "queries":
            maps["attention"] = engine.attention(batch, columns)
        flat = {method: values.reshape(len(batch), len(columns), -1) for method, values in maps.items()}
        return [
            Subject(image, logits[row], {method: values[row] for method, values in flat.items()})
            for row, image in enumerate(batch)
        ]

    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    subjects = [subject for found in at_once(engine, maps_of, batches, "maps") for subject in found]
    for subject in subjects:
        subject.maps["random"] = random.random((len(columns), info.model.num_patches))
    for subject, prior in zip(subjects, priors(subjects), strict=True):
        subject.maps["prior"] = prior
    return subjects


def at_once(engine: TorchEngine, work: Callable[[T], R], parts: Sequence[T], doing: str) -> Iterator[R]:
    """work of each part in order; on a CPU each core has one of its own, as the engine computes with one thread."""
    with ThreadPoolExecutor(num_cpus() if engine.in_workers else 1) as pool:
        found: Iterable[R] = pool.map(work, parts)
        yield from track(found, doing, len(parts), console=Console(stderr=True))


def priors(subjects: Sequence[Subject]) -> list[Floats]:
    """For each subject (A, N): the mean occlusion maps of the others with the same answers; of all others where nobody
    else has it.
    """
    signs = np.array([subject.signs for subject in subjects])[..., None]  # (n, A, 1)
    maps = np.array([subject.maps["occlusion"] for subject in subjects])
    found = []
    for number in range(len(subjects)):
        same = (signs == signs[number]).astype(float)
        same[number] = 0
        other = np.ones_like(same)
        other[number] = 0
        weight = np.where(same.sum(axis=0) > 0, same, other)
        found.append((weight * maps).sum(axis=0) / np.maximum(weight.sum(axis=0), 1))
    return found


def chosen(subject: Subject, random: np.random.Generator) -> NDArray[np.intp]:
    """Numbers of attributes: EACH at most of those present, and of those absent."""
    sides = (np.flatnonzero(subject.signs > 0), np.flatnonzero(subject.signs < 0))
    return np.concatenate([random.permutation(side)[:EACH] for side in sides])


def all_curves(engine: TorchEngine, info: CheckpointInfo, subjects: Sequence[Subject]) -> dict[str, dict[str, Floats]]:
    """way of taking away → method → (n, 2): deletion and insertion of each image."""
    random = np.random.default_rng(1)
    found: dict[str, dict[str, list[tuple[float, float]]]] = {"no token": {}, "mean colour": {}}

    def of_one(asked: tuple[Subject, NDArray[np.intp]]) -> dict[str, dict[str, tuple[float, float]]]:
        subject, columns = asked
        signs = subject.signs[columns]
        ways = {
            "no token": without_tokens(engine, subject.image, columns, signs),
            "mean colour": mean_colour(engine, info, subject.image, columns, signs),
        }
        return {
            way: {method: curves(probs, maps[columns]) for method, maps in subject.maps.items()}
            for way, probs in ways.items()
        }

    asked = [(subject, chosen(subject, random)) for subject in subjects]
    for result in at_once(engine, of_one, asked, "curves"):
        for way, by in result.items():
            for method, pair in by.items():
                found[way].setdefault(method, []).append(pair)
    return {way: {method: np.array(rows) for method, rows in by.items()} for way, by in found.items()}


def changed_patches(with_it: Pixels, without: Pixels, model: ModelConfig) -> NDArray[np.bool_]:
    """(N,) those where two images (3, H, W) differ by at least MIN_CHANGE of what the most different one does."""
    (rows, across), side = model.grid_size, model.patch_size
    change = np.abs(with_it.astype(float) - without.astype(float)).sum(axis=0)
    patches = change.reshape(rows, side, across, side).sum(axis=(1, 3)).ravel()
    return (patches > 0) & (patches >= MIN_CHANGE * patches.max())


def pointing(subjects: Sequence[Subject], faces: DrawnFaces, info: CheckpointInfo) -> dict[str, dict[str, list[float]]]:
    """attribute → method → for each face that has it, and where the model says so: 1 where the map points at it; as
    "chance" the share of the patches that it changes.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for column, name in enumerate(info.attributes):
        painted = ATTRIBUTES.index(name)
        rows = [i for i, subject in enumerate(subjects) if faces.seen[i, painted] and subject.logits[column] >= 0]
        if not rows:
            continue
        bare = DrawnFaces(faces.split, len(faces.names), stored_size=faces.stored_size)
        bare.seen[:, painted] = 0
        for row, image in zip(rows, bare.read(rows), strict=True):
            changed = changed_patches(subjects[row].image, center_crop(image, info.model.img_size), info.model)
            if not 0 < changed.mean() <= MAX_CHANGED:
                continue
            scores = found.setdefault(name, {})
            scores.setdefault("chance", []).append(float(changed.mean()))
            for method, maps in subjects[row].maps.items():
                scores.setdefault(method, []).append(float(changed[maps[column].argmax()]))
    return found


def interval(values: Sequence[float] | Floats) -> tuple[float, float]:
    """(mean, half of the 95 % interval of the mean), the half NaN of one value alone."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(1.96 * array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else np.nan


def curve_rows(found: Mapping[str, Floats]) -> dict[str, dict[str, tuple[float, float]]]:
    """method → its deletion, insertion, their difference, and that less the one of "random", each an interval."""
    chance = found["random"] @ [-1, 1]
    return {
        method: {
            "deletion": interval(values[:, 0]),
            "insertion": interval(values[:, 1]),
            "insertion − deletion": interval(values @ [-1, 1]),
            "above random": interval(values @ [-1, 1] - chance),
        }
        for method, values in found.items()
    }


def read_images(samples: Samples, count: int, model: ModelConfig) -> list[Pixels]:
    """A random sample, the same each time; of drawn faces the first."""
    numbers = np.arange(len(samples.names))
    if not isinstance(samples, DrawnFaces):
        numbers = np.sort(np.random.default_rng(0).permutation(numbers)[:count])
    return [
        center_crop(image, model.img_size)
        for part in np.array_split(numbers, -(-len(numbers) // 16))
        for image in samples.read(part.tolist())
    ]


def show(title: str, rows: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    table = Table(title=title, title_justify="left")
    columns = list(next(iter(rows.values())))
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        table.add_row(name, *(_cell(*row[c]) if c in row else "" for c in columns))
    Console(width=140).print(table)


def _cell(mean: float, half: float) -> str:
    return f"{mean:.3f}" if np.isnan(half) else f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", help="a folder of CelebA, or 'drawn'")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    weights, info = load_arrays(weights_file(asked.run))
    engine = TorchEngine(weights, info, torch.device(asked.device))
    size = info.model.img_size
    drawn = asked.data == "drawn"
    samples: Samples
    if drawn:
        samples = DrawnFaces("valid", asked.images, stored_size=stored_size(size))
    else:
        samples = open_samples(DataConfig(asked.data), "valid", size)
    subjects = subjects_of(engine, info, read_images(samples, asked.images, info.model))
    report: dict[str, object] = {"run": str(asked.run), "data": asked.data, "images": len(subjects)}
    for way, found in all_curves(engine, info, subjects).items():
        rows = curve_rows(found)
        show(f"what is taken away gets: {way}; {len(subjects)} images", rows)
        report[way] = rows
    if isinstance(samples, DrawnFaces):
        scores = pointing(subjects, samples, info)
        by_attribute = {
            f"{name} ({len(by['chance'])})": {method: interval(values) for method, values in by.items()}
            for name, by in scores.items()
        }
        methods = list(next(iter(scores.values()))) if scores else []
        means = {m: interval([float(np.mean(by[m])) for by in scores.values()]) for m in methods}
        if scores:
            show("pointing, by attribute (faces that have it)", by_attribute | {"mean of attributes": means})
        report["pointing"] = by_attribute | {"mean of attributes": means}
    print(json.dumps(plain(report)))


if __name__ == "__main__":
    main()
