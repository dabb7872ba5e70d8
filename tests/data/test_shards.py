"""Patterns of files' names, held against bash, and archives and labels that would lose a part in silence."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitpe.data.shards import expand_braces
from vitpe.data.webdataset import read_webdataset
from vitpe.errors import VitpeError

SIZE = (218, 178)

_NUMBERS = st.tuples(st.integers(0, 120), st.integers(0, 40), st.integers(1, 4), st.integers(1, 4)).map(
    lambda drawn: f"{{{drawn[0]:0{drawn[2]}d}..{drawn[1]:0{drawn[3]}d}}}"
)
_LISTS = st.lists(st.text("abc-", max_size=3), min_size=2, max_size=4).map(lambda words: f"{{{','.join(words)}}}")
_TEXTS = st.text("abc/-.", max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(_NUMBERS, _LISTS, _TEXTS), max_size=2))
def test_patterns_are_what_bash_makes_of_them(parts):
    pattern = "x" + "".join(parts) + ".tar"
    told = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert expand_braces(pattern) == told.stdout.splitlines()


def archive(path: Path, labels: bytes) -> Path:
    photo = io.BytesIO()
    Image.new("RGB", SIZE[::-1]).save(photo, "JPEG")
    with tarfile.open(path, "w") as tar:
        for name, data in (("0.jpg", photo.getvalue()), ("0.json", labels)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("padding", [0, 512, 2_000_000])
def test_archives_joined_by_cat(tmp_path, padding):
    """tarfile, and tar, read the first one alone."""
    path = archive(tmp_path / "train.tar", json.dumps({"Bald": 1}).encode())
    archive(tmp_path / "test.tar", json.dumps({"Bald": 1}).encode())
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(padding))
    assert read_webdataset(tmp_path, "train", SIZE).labels.tolist() == [[1]]
    path.write_bytes(whole + bytes(padding) + whole)
    with pytest.raises(VitpeError, match=r"train\.tar, after 0\.json: more follows the mark of its end") as caught:
        read_webdataset(tmp_path, "train", SIZE)
    assert "tar --concatenate" in caught.value.hint


@pytest.mark.parametrize("labels", [b'{"Bald": 1, "Bald": 0}', b'{"a": {"Bald": 1, "Bald": 0}}'])
def test_a_label_that_is_there_twice(tmp_path, labels):
    path = archive(tmp_path / "train.tar", labels)
    with pytest.raises(VitpeError, match=r"train\.tar: 0\.json cannot be read: Bald is there twice"):
        read_webdataset(path, "train", SIZE)
