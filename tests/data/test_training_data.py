"""Which images a run trains on, what it does to them and what it says of that: samples, sides, and what is refused."""

import itertools
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.data import Bench, Tally
from tests.helpers import tiny_options, train_tiny
from tests.helpers.in_process import call_vitpe
from vitpe.config import DataConfig
from vitpe.data.augmentation import Augmentation
from vitpe.data.image_files import FolderFiles
from vitpe.data.label_table import tells_sides
from vitpe.data.sources import open_samples
from vitpe.errors import UsageError, VitpeError

SIZE = (16, 24)


def write_labels(folder: Path, celeba: Path, header: str = "Red", shuffled: int = 0, **more: str) -> Path:
    """A table of the fixture's images in two folders, one for each class, in some order."""
    images = folder / "faces"
    rows = []
    for number, image in enumerate(sorted((celeba / "img_align_celeba").iterdir())):
        name = f"{'female' if number < 20 else 'male'}/{image.name}"
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, images / name)
        rows.append(f"{name},{'train' if number % 4 else 'valid'},{int(number >= 20)}")
    random.Random(shuffled).shuffle(rows)
    labels = folder / "labels.csv"
    labels.write_text("\n".join([f"path,split,{header}", *rows]) + "\n")
    return labels


# A sample


def sample_of(data: Path, labels: Path | None = None, count: int = 10, seed: int = 0, split: str = "train"):
    config = DataConfig(str(data), None if labels is None else (str(labels),), num_train=count, num_valid=count)
    return open_samples(config, split, SIZE, seed)


def test_fewer_images_are_a_sample_of_all(celeba, tmp_path):
    labels = write_labels(tmp_path, celeba)
    samples = sample_of(tmp_path / "faces", labels)
    assert list(samples.names) == sorted(samples.names)
    assert 2 <= samples.labels.sum() <= 8
    assert samples.notes == ("10 of 30 train images: a random sample, the same for seed 0",)
    whole = open_samples(DataConfig(str(tmp_path / "faces"), (str(labels),)), "train", SIZE)
    known = dict(zip(whole.names, whole.labels.tolist(), strict=True))
    assert [known[name] for name in samples.names] == samples.labels.tolist()
    index = list(whole.names).index(samples.names[3])
    assert np.array_equal(samples.read([3]), whole.read([index]))


def test_it_depends_on_the_seed_alone_and_grows(celeba, tmp_path):
    labels = write_labels(tmp_path, celeba)
    data = tmp_path / "faces"
    names = [set(sample_of(data, labels, count).names) for count in (1, 5, 10, 29, 30)]
    assert [len(found) for found in names] == [1, 5, 10, 29, 30]
    assert all(small < large for small, large in itertools.pairwise(names))
    write_labels(tmp_path, celeba, shuffled=1)
    assert set(sample_of(data, labels).names) == names[2]
    assert set(sample_of(data, labels, seed=1).names) != names[2]


def test_of_celeba_too(celeba):
    samples = sample_of(celeba)
    assert list(samples.names) != [f"{number:06}.jpg" for number in range(1, 11)]
    assert samples.notes == ("10 of 24 train images: a random sample, the same for seed 0",)
    assert sample_of(celeba, count=4, split="valid").notes[0].startswith("4 of 8 valid images: a random sample")
    assert sample_of(celeba, count=24).notes == ()
    assert sample_of(celeba, count=25).notes == ("asked for 25 train images: there are 24, all are taken",)


def test_attributes_with_one_value_are_named(celeba, tmp_path):
    labels = write_labels(tmp_path, celeba)
    text = labels.read_text().splitlines()
    rows = [f"{row},0,1" if ",train," in row else f"{row},1,0" for row in text[1:]]
    labels.write_text("\n".join([f"{text[0]},Never,Always", *rows]) + "\n")
    notes = train_tiny(tmp_path / "faces", tmp_path / "run", data__labels=str(labels), train__steps=1).notes
    assert (
        "warning: 2 attributes have one value only in the 30 images to train on: Never (always 0), Always (always 1)"
        in notes
    )
    assert (
        "warning: 2 attributes have one value only in the 10 images to validate: Never (always 1), Always (always 0)"
        in notes
    )
    assert not any("warning" in note for note in train_tiny(celeba, tmp_path / "other", train__steps=1).notes)


# Left and right


SIDED = """light_from_left facing_right LEFT leftEye EyeRight scar-right left is_right turnedLeft FACINGLEFT
    lookingright upper_right_tooth Right2 bright_left OpticLeft ｌｅｆｔ top.right leftmost""".split()
SIDELESS = """Bright brightness Cleft_Chin upright Upright_Pose Straight_Hair l_eye r_eye links Smiling Fright copyright
    Light lifted high_contrast_bright""".split()


@pytest.mark.parametrize("name", [*SIDED, "Looks Left"])
def test_names_that_tell_left_from_right(name):
    assert tells_sides(name)


@pytest.mark.parametrize("name", SIDELESS)
def test_names_that_do_not(name):
    assert not tells_sides(name)


@pytest.mark.parametrize("name", ["light_from_left", "EyeRight"])
def test_labels_with_a_side_are_refused_until_flipping_is_decided(celeba, tmp_path, name):
    labels = write_labels(tmp_path, celeba, name)
    options = [*tiny_options(tmp_path / "faces", train__steps=1), "--labels", labels]
    called = call_vitpe("train", *options, "--run", tmp_path / "run")
    assert called.code == 2
    assert called.stderr == (
        f"error: labels tell left from right ({name}), and training mirrors images\n"
        "hint: train without mirroring: --set data.flip=false (=true, where it does no harm)\n"
    )
    assert not (tmp_path / "run").exists()
    for flip in ("true", "false"):
        called = call_vitpe("train", *options, "--set", f"data.flip={flip}", "--run", tmp_path / flip)
        assert called.code == 0, called.stderr
        assert "mirror" not in called.stderr


def test_in_celebas_own_layout_too(celeba, tmp_path):
    shutil.copytree(celeba, tmp_path / "celeba")
    path = tmp_path / "celeba" / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("Green", "Facing_Left"))
    with pytest.raises(UsageError, match=r"labels tell left from right \(Facing_Left\)"):
        train_tiny(tmp_path / "celeba", tmp_path / "run")


def test_with_other_labels_mirroring_is_told(celeba, tmp_path):
    labels = write_labels(tmp_path, celeba)
    notes = train_tiny(tmp_path / "faces", tmp_path / "run", data__labels=str(labels), train__steps=1).notes
    assert "training images are mirrored at random; if labels tell left from right: --set data.flip=false" in notes
    assert not any("mirror" in note for note in train_tiny(celeba, tmp_path / "other", train__steps=1).notes)


def test_training_mirrors_unless_told_not_to(celeba, tmp_path, monkeypatch):
    """Whatever is decided, it is what the batches are made with."""
    flips = []
    from vitpe.training import train as run

    def augmentation(*arguments, **options):
        made = Augmentation(*arguments, **options)
        flips.append(made.flip)
        return made

    monkeypatch.setattr(run, "Augmentation", augmentation)
    for number, flip in enumerate((None, True, False)):
        train_tiny(celeba, tmp_path / str(number), data__flip=flip, train__steps=1)
    assert flips == [True, True, False]


# What is refused


def test_labels_without_data_are_refused(tmp_path):
    labels = tmp_path / "l.csv"
    labels.touch()
    for arguments in (
        ["--labels", labels],
        ["--set", f"data.labels={labels}"],
        ["--labels", labels, "--data", "drawn_faces"],
    ):
        called = call_vitpe("train", *arguments, "--steps", "1", "--run", tmp_path / "run")
        assert called.code == 2
        assert (
            called.stderr
            == f"error: --labels {labels} without --data\nhint: name the folder of the images: --data FOLDER\n"
        )
    assert not (tmp_path / "run").exists()


def test_damaged_archives_and_tables_are_only_ever_refused(tmp_path):
    """A few of the cases of `python -m tests.fuzz.data`; the undamaged files must be accepted."""
    bench, tally = Bench(tmp_path), Tally()
    for name, data in bench.archives.items():
        bench.open_archive(data, name, tally)
    for name, text in bench.tables.items():
        bench.open_table(name, text.encode(), name, tally)
    for name, data in bench.datasets.items():
        bench.open_dataset(name, data, name, tally)
    bench.open_corrections(bench.corrections.encode(), "corrections", tally)
    assert not tally.failures
    whole = {"archive": 6, "list": 4, "table": 5, "parquet": 3, "tar": 3, "corrections": 1}
    assert tally.counts == {f"{kind}: read": count for kind, count in whole.items()}
    for case in range(150):
        bench.run(case, tally)
    assert not tally.failures
    assert tally.counts.total() == 22 + 4 * 150


def test_a_pipe_behind_an_image_ends_a_run_with_a_word(celeba, tmp_path):
    labels = write_labels(tmp_path, celeba)
    image = next((tmp_path / "faces" / "male").iterdir())
    image.unlink()
    image.symlink_to("/dev/zero")
    with pytest.raises(VitpeError, match=rf"line \d+: male/{image.name} is no plain file"):
        train_tiny(tmp_path / "faces", tmp_path / "run", data__labels=str(labels))


def test_an_image_that_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name, reason in (("pipe.jpg", "it is a pipe, not a file"), ("zero.jpg", "it is a device, not a file")):
        with pytest.raises(VitpeError) as caught:
            FolderFiles(tmp_path).read(name)
        assert caught.value.message == f"cannot read {tmp_path / name}: {reason}"
        assert caught.value.hint
