"""Which data source a configuration means, opened for one split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitpe.config import DRAWN_FACES, NUM_DRAWN_TRAIN, NUM_DRAWN_VALID, DataConfig
from vitpe.data.celeba import is_celeba, read_celeba
from vitpe.data.images import fit
from vitpe.data.samples import Samples, stored_size
from vitpe.errors import UsageError


def open_samples(config: DataConfig, split: str, img_size: tuple[int, int]) -> Samples:
    """The samples of `split` ("train", "valid" or "test").

    img_size: what the model takes; whatever size images come in, they are given a little larger, for random crops.
    Raises VitpeError when the folder or its labels cannot be read.
    """
    limit = {"train": config.num_train, "valid": config.num_valid, "test": config.num_valid}[split]
    size = stored_size(img_size)
    if config.data == DRAWN_FACES:
        from vitpe.data.drawn_faces import DrawnFaces  # only those who train on them need the painter

        faces: Samples = DrawnFaces(split, limit or (NUM_DRAWN_TRAIN if split == "train" else NUM_DRAWN_VALID))
        return faces if faces.stored_size == size else Resized(faces, size)
    folder = Path(config.data)
    if config.labels is not None:
        from vitpe.data.labelled_csv import read_labelled_csv

        return read_labelled_csv(folder, Path(config.labels), split, img_size).first(limit)
    if folder.is_dir() and not is_celeba(folder) and next(folder.glob("*.csv"), None) is not None:
        raise UsageError(f"{folder} is not CelebA", "for other images name a table of labels: --labels labels.csv")
    return read_celeba(folder, split, size).first(limit)


class Resized:
    """Samples in another size, cropped and resized to fit."""

    def __init__(self, samples: Samples, size: tuple[int, int]) -> None:
        self._samples = samples
        self.source = samples.source
        self.attributes = samples.attributes
        self.names = samples.names
        self.labels = samples.labels
        self.stored_size = size

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """(len(indices), 3, height, width) RGB."""
        images = torch.from_numpy(self._samples.read(indices))
        return np.stack([fit(image, self.stored_size).numpy() for image in images])
