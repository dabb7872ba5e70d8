"""Which data source a configuration means, opened for one split. One file a source, one line in a table."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vitpe.config import DRAWN_FACES, NUM_DRAWN_TRAIN, NUM_DRAWN_VALID, DataConfig
from vitpe.data.samples import Samples, stored_size


@dataclass(frozen=True)
class _Part:
    """What of a source is wanted. limit: the number of images, None for all; of drawn faces, which have no end, for the
    usual number. seed: of the sample, where limit is less than there are.
    """

    split: str
    stored_size: tuple[int, int]
    limit: int | None
    seed: int


# Each imports its source only when it is asked for it: so only those who train on drawn faces need the painter.


def _drawn_faces(_: DataConfig, part: _Part) -> Samples:
    from vitpe.data.drawn_faces import DrawnFaces

    usual = NUM_DRAWN_TRAIN if part.split == "train" else NUM_DRAWN_VALID
    return DrawnFaces(part.split, part.limit or usual, stored_size=part.stored_size)


def _labelled_csv(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.labelled_csv import read_labelled_csv

    samples = read_labelled_csv(Path(config.data), Path(str(config.labels)), part.split, part.stored_size)
    return samples.sample(part.split, part.limit, part.seed)


def _parquet(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.parquet import read_parquet

    return read_parquet(Path(config.data), part.split, part.stored_size).sample(part.split, part.limit, part.seed)


def _is_parquet(config: DataConfig) -> bool:
    from vitpe.data.celeba import is_celeba
    from vitpe.data.parquet import is_parquet

    return not is_celeba(Path(config.data)) and is_parquet(Path(config.data))


def _celeba(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.celeba import check_is_celeba, read_celeba

    check_is_celeba(Path(config.data))
    return read_celeba(Path(config.data), part.split, part.stored_size).sample(part.split, part.limit, part.seed)


_SOURCES: Final[tuple[tuple[Callable[[DataConfig], bool], Callable[[DataConfig, _Part], Samples]], ...]] = (
    (lambda config: config.data == DRAWN_FACES, _drawn_faces),
    (lambda config: config.labels is not None, _labelled_csv),
    (_is_parquet, _parquet),
    (lambda config: True, _celeba),
)
"""Whether a configuration means the source, and what opens it; the first that is meant counts."""


def open_samples(config: DataConfig, split: str, img_size: tuple[int, int], seed: int = 0) -> Samples:
    """The samples of `split` ("train", "valid" or "test").

    img_size: what the model takes; whatever size images come in, they are given a little larger, for random crops.
    seed: of the sample where config asks for fewer images than there are. Raises VitpeError when the folder or its
    labels cannot be read.
    """
    samples = _open(config, split, img_size, seed)
    if config.relabel is None and config.attributes is None:
        return samples
    from vitpe.data.corrections import choose_attributes, relabel

    if config.relabel is not None:
        samples = relabel(samples, Path(config.relabel), split)
    return samples if config.attributes is None else choose_attributes(samples, config.attributes)


def _open(config: DataConfig, split: str, img_size: tuple[int, int], seed: int) -> Samples:
    limit = {"train": config.num_train, "valid": config.num_valid, "test": config.num_valid}[split]
    read = next(read for is_meant, read in _SOURCES if is_meant(config))
    return read(config, _Part(split, stored_size(img_size), limit, seed))


def check_source(config: DataConfig, img_size: tuple[int, int]) -> None:
    """Raise at once what `open_samples` would where there is nothing of that name; what is there is not read."""
    there = config.data == DRAWN_FACES or os.path.lexists(config.data)
    if not there or not (config.labels is None or os.path.lexists(config.labels)):
        open_samples(config, "train", img_size)
    if config.relabel is not None:
        from vitpe.data.corrections import read_corrections

        read_corrections(Path(config.relabel))
