"""Which data source a configuration means, opened for one split."""

from pathlib import Path

from vitpe.config import DRAWN_FACES, NUM_DRAWN_TRAIN, NUM_DRAWN_VALID, DataConfig
from vitpe.data.celeba import is_celeba, read_celeba
from vitpe.data.samples import Samples
from vitpe.errors import UsageError, VitpeError


def open_samples(config: DataConfig, split: str, img_size: tuple[int, int]) -> Samples:
    """The samples of `split` ("train", "valid" or "test").

    img_size: what the model takes; images that come in any size are stored a little larger, for random crops.
    Raises VitpeError when the folder or its labels cannot be read.
    """
    limit = {"train": config.num_train, "valid": config.num_valid, "test": config.num_valid}[split]
    if config.data == DRAWN_FACES:
        from vitpe.data.drawn_faces import DrawnFaces  # only those who train on them need the painter

        return DrawnFaces(split, limit or (NUM_DRAWN_TRAIN if split == "train" else NUM_DRAWN_VALID))
    folder = Path(config.data)
    if config.labels is not None:
        from vitpe.data.labelled_csv import read_labelled_csv

        return read_labelled_csv(folder, Path(config.labels), split, img_size).first(limit)
    if folder.is_dir() and not is_celeba(folder) and next(folder.glob("*.csv"), None) is not None:
        raise UsageError(f"{folder} is not CelebA", "for other images name a table of labels: --labels labels.csv")
    samples = read_celeba(folder, split)
    height, width = samples.stored_size
    if img_size[0] > height or img_size[1] > width:
        raise VitpeError(
            f"img_size {img_size[0]}x{img_size[1]} is larger than CelebA's {height}x{width}", "choose a smaller one"
        )
    return samples.first(limit)
