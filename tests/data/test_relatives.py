"""CelebA's relatives, CelebAMask-HQ and LFWA, in the files that are published: what was put there comes out."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.in_process import call_vitpe, read_jsonl
from vitpe.celeba import ATTRIBUTES
from vitpe.config import DataConfig
from vitpe.data.celebamask_hq import read_celebamask_hq
from vitpe.data.drawn_faces import DrawnFaces
from vitpe.data.lfwa import read_lfwa
from vitpe.data.sources import open_samples
from vitpe.errors import VitpeError

SIZE = (218, 178)
COUNT = 24
FACES = DrawnFaces("train", COUNT)
TINY = ("--set", "model.embed_dim=16", "--set", "model.depth=1", "--batch-size", "4", "--steps", "2")


def jpeg(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(FACES.read([index])[0].transpose(1, 2, 0)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def decoded(indices: list[int]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg(index)))).transpose(2, 0, 1) for index in indices])


@pytest.fixture
def hq(tmp_path: Path) -> Path:
    """Number n is CelebA's image 7 n + 1; by CelebA's partition the first half is train, the rest valid and test."""
    folder = tmp_path / "CelebAMask-HQ"
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    rows, mapping, partition = [], ["idx     orig_idx      orig_file"], []
    for number in range(COUNT):
        (folder / "CelebA-HQ-img" / f"{number}.jpg").write_bytes(jpeg(number))
        rows.append(f"{number}.jpg  " + " ".join(" 1" if label else "-1" for label in FACES.labels[number]))
        mapping.append(f"{number}        {7 * number}      {7 * number + 1:06d}.jpg")
        partition.append(f"{7 * number + 1:06d}.jpg {0 if number < 12 else 1 if number < 18 else 2}")
    names = " ".join(ATTRIBUTES)
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join([str(COUNT), names, *rows]) + "\n")
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(mapping) + "\n")
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return folder


def test_celebas_partition_decides(hq):
    for split, expected in (("train", range(12)), ("valid", range(12, 18)), ("test", range(18, 24))):
        samples = open_samples(DataConfig(data=str(hq)), split, (208, 176))
        assert samples.source == "celebamask_hq"
        assert list(samples.names) == [f"{number}.jpg" for number in expected]
        np.testing.assert_array_equal(samples.labels, FACES.labels[list(expected)])
        np.testing.assert_array_equal(samples.read(range(len(expected))), decoded(list(expected)))


def test_without_the_partition_a_hash_does_and_that_is_said(hq):
    (hq.parent / "list_eval_partition.txt").unlink()
    parts = [read_celebamask_hq(hq, split, SIZE) for split in ("train", "valid")]
    assert not set(parts[0].names) & set(parts[1].names)
    assert parts[0].notes[1].startswith("no list_eval_partition.txt: a hash of each name gives 80 % train")


def test_large_images_are_fitted(hq):
    for number in range(COUNT):
        Image.open(hq / "CelebA-HQ-img" / f"{number}.jpg").resize((256, 256)).save(
            hq / "CelebA-HQ-img" / f"{number}.jpg"
        )
    samples = open_samples(DataConfig(data=str(hq)), "valid", (208, 176))
    assert samples.read([0]).shape == (1, 3, *SIZE)
    assert any("256" in note for note in samples.notes)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: shutil.rmtree(f / "CelebA-HQ-img"), "has no CelebA-HQ-img"),
        (
            lambda f: cut(f / "CelebAMask-HQ-attribute-anno.txt"),
            "anno.txt, line .*: .* values where the header",
        ),
        (lambda f: (f / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx\n0 1\n"), r"mapping.txt, line 2: '0 1'"),
    ],
)
def test_what_is_wrong_with_celebamask_hq_is_named(hq, spoil, complaint):
    spoil(hq)
    with pytest.raises(VitpeError, match=complaint):
        read_celebamask_hq(hq, "train", SIZE)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def write_lfwa(folder: Path, indices: bool = True) -> Path:
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    names = [f"Person_{number // 3}\\Person_{number // 3}_{number:04d}.jpg" for number in range(COUNT)]
    for number, name in enumerate(names):
        path = folder / "lfw" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    with h5py.File(folder / "lfw_att_40.mat", "w") as file:
        for field, texts in (("AttrName", ATTRIBUTES), ("name", names)):
            references = np.empty((1, len(texts)), dtype=h5py.ref_dtype)
            for place, text in enumerate(texts):
                units = np.frombuffer(text.encode("utf-16-le"), dtype="<u2")[:, None]
                references[0, place] = file.create_dataset(f"#refs#/{field}{place}", data=units).ref
            file.create_dataset(field, data=references, dtype=h5py.ref_dtype)
        file["label"] = FACES.labels.T.astype(np.float64)
    if indices:
        with h5py.File(folder / "indices_train_test.mat", "w") as file:
            file["indices_img_train"] = np.arange(1, 17, dtype=np.float64)[None]
            file["indices_img_test"] = np.arange(17, COUNT + 1, dtype=np.float64)[None]
    return folder


def test_lfwas_matlab_files(tmp_path):
    folder = write_lfwa(tmp_path / "lfwa")
    test = open_samples(DataConfig(data=str(folder)), "test", (208, 176))
    assert (test.source, test.attributes) == ("lfwa", ATTRIBUTES)
    np.testing.assert_array_equal(test.labels, FACES.labels[16:])
    np.testing.assert_array_equal(test.read(range(8)), decoded(list(range(16, 24))))
    assert test.names[0] == "Person_5/Person_5_0016.jpg"
    train, valid = (set(read_lfwa(folder, split, SIZE).names) for split in ("train", "valid"))
    assert len(train) + len(valid) == 16
    assert not train & valid


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: shutil.copy(f / "lfw_att_40.mat", f / "indices_train_test.mat"), "no indices_img_train"),
        (lambda f: cut(f / "lfw_att_40.mat"), "lfw_att_40.mat is no whole HDF5 file"),
        (lambda f: (f / "lfw_att_40.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(600)), "is no whole HDF5 file"),
        (lambda f: shutil.rmtree(f / "lfw"), "has none of the images of lfw_att_40.mat: no Person_0/Person_0_0000.jpg"),
        (
            lambda f: (f / "indices_train_test.mat").write_bytes((f / "lfw_att_40.mat").read_bytes()),
            "no indices_img_train",
        ),
    ],
)
def test_what_is_wrong_with_lfwa_is_named(spoil, complaint, tmp_path):
    folder = write_lfwa(tmp_path / "lfwa")
    spoil(folder)
    with pytest.raises(VitpeError, match=complaint):
        read_lfwa(folder, "train", SIZE)


def test_without_indices_a_hash_decides(tmp_path):
    samples = read_lfwa(write_lfwa(tmp_path / "lfwa", indices=False), "train", SIZE)
    assert samples.notes[0].startswith("no indices_train_test.mat: a hash")


@pytest.mark.parametrize("kind", ["hq", "lfwa"])
def test_all_commands_take_them(kind, tmp_path, request):
    folder = request.getfixturevalue("hq") if kind == "hq" else write_lfwa(tmp_path / "lfwa")
    run = tmp_path / "run"
    trained = call_vitpe("train", "--data", folder, "--run", run, *TINY)
    assert trained.code == 0, trained.stderr
    assert {"hq": "data: CelebAMask-HQ, ", "lfwa": "data: LFWA, "}[kind] in trained.stderr
    assert call_vitpe("eval", run, "--split", "test").code == 0
    image = next(folder.rglob("*.jpg"))
    assert len(read_jsonl(call_vitpe("predict", image, "--checkpoint", run))) == 1
