"""Which data source a configuration means, opened for one split."""

import hashlib
from pathlib import Path

from vitpe.config import DRAWN_FACES, NUM_DRAWN_TRAIN, NUM_DRAWN_VALID, DataConfig
from vitpe.data.celeba import has_celeba_images, is_celeba, read_celeba
from vitpe.data.file_samples import FileSamples
from vitpe.data.image_files import is_folder, is_image, list_folder
from vitpe.data.samples import Samples, stored_size
from vitpe.errors import UsageError


def open_samples(config: DataConfig, split: str, img_size: tuple[int, int], seed: int = 0) -> Samples:
    """The samples of `split` ("train", "valid" or "test").

    img_size: what the model takes; whatever size images come in, they are given a little larger, for random crops.
    seed: of the sample where config asks for fewer images than there are. Raises VitpeError when the folder or its
    labels cannot be read.
    """
    limit = {"train": config.num_train, "valid": config.num_valid, "test": config.num_valid}[split]
    size = stored_size(img_size)
    if config.data == DRAWN_FACES:
        from vitpe.data.drawn_faces import DrawnFaces  # only those who train on them need the painter

        num_faces = limit or (NUM_DRAWN_TRAIN if split == "train" else NUM_DRAWN_VALID)
        return DrawnFaces(split, num_faces, stored_size=size)
    folder = Path(config.data)
    if config.labels is not None:
        from vitpe.data.labelled_csv import read_labelled_csv

        samples = read_labelled_csv(folder, Path(config.labels), split, img_size)
    else:
        _check_celeba(folder)
        samples = read_celeba(folder, split, size)
    return samples if limit is None else _sample(samples, split, limit, seed)


def _check_celeba(folder: Path) -> None:
    """UsageError for a folder of images that are not CelebA's, and for CelebA's images without their lists."""
    if not is_folder(folder) or is_celeba(folder) or has_celeba_images(folder):
        return  # and what is missing will be told
    if is_celeba(folder.parent):
        raise UsageError(
            f"{folder} is CelebA's folder of images alone", f"name the one around it: --data {folder.parent}"
        )
    names = list_folder(folder)
    if tables := sorted(name for name in names if name.lower().endswith((".csv", ".tsv"))):
        table = folder / tables[0] if len(tables) == 1 else "labels.csv"
        raise UsageError(f"{folder} is not CelebA", f"for other images name a table of labels: --labels {table}")
    if any(is_image(name) or is_folder(folder / name) for name in names):
        raise UsageError(
            f"{folder} holds images without labels: no list_attr_celeba.txt",
            "name a table of labels: --labels labels.csv (path,Smiling,Glasses), or the folder of CelebA",
        )


def _sample(samples: FileSamples, split: str, count: int, seed: int) -> FileSamples:
    """`count` of the samples, in their order. Which ones depends on the seed and their names alone: not on the order of
    a table's rows, and a smaller sample is part of every larger one.
    """
    total = len(samples.names)
    if count >= total:
        told = [f"asked for {count:,} {split} images: there are {total:,}, all are taken"] if count > total else []
        return samples.take(range(total), *told)
    keys = [
        hashlib.blake2b(f"{seed} {name}".encode(errors="surrogatepass"), digest_size=8).digest()
        for name in samples.names
    ]
    chosen = sorted(sorted(range(total), key=keys.__getitem__)[:count])
    return samples.take(chosen, f"{count:,} of {total:,} {split} images: a random sample, the same for seed {seed}")
