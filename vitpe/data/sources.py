"""Which data source a configuration means, opened for one split. One file a source, one line in a table."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vitpe.celeba import NUM_PUBLISHED
from vitpe.config import DRAWN_FACES, NUM_DRAWN_TRAIN, NUM_DRAWN_VALID, DataConfig
from vitpe.data.fitting import Fitting
from vitpe.data.samples import Samples
from vitpe.errors import UsageError

if TYPE_CHECKING:
    from vitpe.data.file_samples import FileSamples


@dataclass(frozen=True)
class _Part:
    """What of a source is wanted, and in what size. limit: the number of images, None for all; of drawn faces, which
    have no end, for the usual number. seed: of the sample, where limit is less than there are.
    """

    split: str
    fitting: Fitting
    limit: int | None
    seed: int


def _taken(samples: "FileSamples", part: _Part) -> Samples:
    return samples.fitted(part.fitting).sample(part.split, part.limit, part.seed)


# Each imports its source only when it is asked for it: so only those who train on drawn faces need the painter.


def _drawn_faces(_: DataConfig, part: _Part) -> Samples:
    from vitpe.data.drawn_faces import DrawnFaces

    usual = NUM_DRAWN_TRAIN if part.split == "train" else NUM_DRAWN_VALID
    return DrawnFaces(part.split, part.limit or usual).fitted(part.fitting)


def _labelled_csv(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.labelled_csv import read_labelled_csv

    labels = [Path(path) for path in config.labels or ()]
    samples = read_labelled_csv(Path(config.data), labels, part.split, part.fitting.stored_size)
    return _taken(samples, part)


def _is_fairface(config: DataConfig) -> bool:
    from vitpe.data.labelled_csv import fairface_tables

    return config.labels is None and bool(fairface_tables(Path(config.data)))


def _fairface(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.labelled_csv import fairface_tables

    tables = tuple(map(str, fairface_tables(Path(config.data))))
    return _labelled_csv(replace(config, labels=tables), part)


def _is_webdataset(config: DataConfig) -> bool:
    from vitpe.data.celeba import is_celeba
    from vitpe.data.image_files import ImageFolder, is_image
    from vitpe.data.shards import holds
    from vitpe.data.tar_files import SUFFIXES

    path = Path(config.data)
    if path.name.lower().endswith(SUFFIXES):
        return True
    if is_celeba(path) or not holds(path, SUFFIXES):
        return False
    return config.labels is None or not any(map(is_image, ImageFolder(path).visible))


def _webdataset(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.webdataset import read_webdataset

    tables = [Path(path) for path in config.labels or ()]
    samples = read_webdataset(Path(config.data), part.split, part.fitting.stored_size, tables)
    return _taken(samples, part)


def _refuse_labels(config: DataConfig) -> None:
    if config.labels is not None:
        raise UsageError(
            f"--labels {config.labels[0]} for {config.data}, which holds its own labels", "leave out --labels"
        )


def _celeba(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.celeba import check_is_celeba, read_celeba

    check_is_celeba(Path(config.data))
    return _taken(read_celeba(Path(config.data), part.split, part.fitting.stored_size), part)


def _is_celebamask_hq(config: DataConfig) -> bool:
    from vitpe.data.celebamask_hq import is_celebamask_hq

    return config.labels is None and is_celebamask_hq(Path(config.data))


def _celebamask_hq(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.celebamask_hq import read_celebamask_hq

    return _taken(read_celebamask_hq(Path(config.data), part.split, part.fitting.stored_size), part)


def _is_lfwa(config: DataConfig) -> bool:
    from vitpe.data.lfwa import is_lfwa

    return config.labels is None and is_lfwa(Path(config.data))


def _lfwa(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.lfwa import read_lfwa

    return _taken(read_lfwa(Path(config.data), part.split, part.fitting.stored_size), part)


def _is_parquet(config: DataConfig) -> bool:
    from vitpe.data.celeba import is_celeba
    from vitpe.data.shards import holds

    path = Path(config.data)
    if path.suffix.lower() == ".parquet":
        return True
    return config.labels is None and not is_celeba(path) and holds(path, (".parquet",))


def _parquet(config: DataConfig, part: _Part) -> Samples:
    from vitpe.data.parquet import read_parquet

    _refuse_labels(config)
    return _taken(read_parquet(Path(config.data), part.split, part.fitting.stored_size), part)


_SOURCES: Final[tuple[tuple[Callable[[DataConfig], bool], Callable[[DataConfig, _Part], Samples]], ...]] = (
    (lambda config: config.data == DRAWN_FACES, _drawn_faces),
    (_is_parquet, _parquet),
    (_is_webdataset, _webdataset),
    (_is_celebamask_hq, _celebamask_hq),
    (_is_lfwa, _lfwa),
    (_is_fairface, _fairface),
    (lambda config: config.labels is not None, _labelled_csv),
    (lambda config: True, _celeba),
)
"""Whether a configuration means the source, and what opens it; the first that is meant counts."""
_TITLES: Final = {
    DRAWN_FACES: "drawn faces",
    "parquet": "Parquet",
    "webdataset": "WebDataset",
    "labelled_csv": "a table of labels",
    "celeba": "CelebA",
    "celebamask_hq": "CelebAMask-HQ",
    "lfwa": "LFWA",
}


def open_samples(config: DataConfig, split: str, img_size: tuple[int, int], seed: int = 0) -> Samples:
    """The samples of `split` ("train", "valid" or "test").

    img_size: what the model takes; whatever size images come in, they are given a little larger, for random crops.
    seed: of the sample where config asks for fewer images than there are. Raises VitpeError when the folder or its
    labels cannot be read.
    """
    samples = _open(config, split, img_size, seed)
    if config.fold is not None and split == "train":
        from vitpe.data.folds import without_fold

        samples = without_fold(samples, *config.fold)
    if config.relabel is None and config.attributes is None:
        return samples
    from vitpe.data.corrections import choose_attributes, relabel

    if config.relabel is not None:
        samples = relabel(samples, Path(config.relabel), split)
    return samples if config.attributes is None else choose_attributes(samples, config.attributes)


def _open(config: DataConfig, split: str, img_size: tuple[int, int], seed: int) -> Samples:
    limit = {"train": config.num_train, "valid": config.num_valid, "test": config.num_valid}[split]
    read = next(read for is_meant, read in _SOURCES if is_meant(config))
    return read(config, _Part(split, Fitting.of(config, img_size), limit, seed))


def is_there(data: str) -> bool:
    """Whether there is a folder or a file of that name, or all files of a pattern: train-{000..019}.tar."""
    from vitpe.data.shards import expand_braces

    return all(map(os.path.lexists, [data] if os.path.lexists(data) else expand_braces(data)))


def describe(splits: Mapping[str, Samples]) -> str:
    """What was found, in a line. splits: by what their images are for: {"to train on": …, "to validate": …}."""
    (first, *others) = splits.items()
    counts = [f"{len(first[1].names):,} images {first[0]}", *(f"{len(each.names):,} {use}" for use, each in others)]
    num = len(first[1].attributes)
    attributes = f"{num} attribute{'' if num == 1 else 's'}"
    published = f" (of {NUM_PUBLISHED:,} published)" if first[1].source == "celeba" else ""
    return f"data: {_TITLES[first[1].source]}, {', '.join(counts)}{published}, {attributes}"


def check_source(config: DataConfig, img_size: tuple[int, int]) -> None:
    """Raise at once what `open_samples` would where there is nothing of that name; what is there is not read."""
    there = config.data == DRAWN_FACES or is_there(config.data)
    if not there or not all(map(os.path.lexists, config.labels or ())):
        open_samples(config, "train", img_size)
    if config.relabel is not None:
        from vitpe.data.corrections import read_corrections

        read_corrections(Path(config.relabel))
