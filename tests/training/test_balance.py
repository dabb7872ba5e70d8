"""`train --balance`: what is drawn, told, stored, and refused."""

import shutil
from pathlib import Path

import pytest

from tests.fuzz.torture import comparable
from tests.helpers import tiny_options, train_tiny
from tests.helpers.in_process import call_vitpe
from tests.training.test_resume import CPU, StoppedHereError, Stopping
from vitpe.data.batches import Batches
from vitpe.data.celeba import read_celeba
from vitpe.errors import UsageError, VitpeError
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import read_info
from vitpe.training.train import train

BY = ["Red", "Green"]


@pytest.fixture(scope="module")
def balanced_run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run balanced by BY."""
    folder = tmp_path_factory.mktemp("balanced") / "runs"
    train_tiny(celeba, folder, train__balance=BY)
    return folder


def counts(celeba: Path) -> dict[str, int]:
    """The training images of each group."""
    samples = read_celeba(celeba, "train")
    red, green = (samples.labels[:, samples.attributes.index(name)] for name in BY)
    return {f"Red={r},Green={g}": int(((red == r) & (green == g)).sum()) for r in (0, 1) for g in (0, 1)}


def test_it_is_told_and_stored(celeba, tmp_path):
    run = tmp_path / "run"
    called = call_vitpe("train", *tiny_options(celeba), "--balance", "Red, Green", "--run", run)
    assert called.code == 0, called.stderr
    sizes = counts(celeba)
    assert min(sizes.values()) > 0
    lines = called.stderr.splitlines()
    at = lines.index("balanced: an epoch is 24 draws, 6 from each of 4 groups; an image is drawn")
    assert lines[at + 1 : at + 5] == [f"  {6 / n:.3g} times of {n} with {name}" for name, n in sizes.items()]
    assert RunFolder(run).read_config().train.balance == ("Red", "Green")
    assert read_info(run / "best.safetensors").balance == ("Red", "Green")
    assert (
        f"{run / 'best.safetensors'} was trained on groups by Red, Green equally often"
        in call_vitpe("eval", run).stderr
    )


def test_what_is_trained_on_is_balanced(celeba, tmp_path, monkeypatch):
    seen = []
    make = Batches._make

    def watched(batches, indices, rounds, step):
        if step is not None and step < 12:
            seen.extend(indices.tolist())
        return make(batches, indices, rounds, step)

    monkeypatch.setattr(Batches, "_make", watched)
    train_tiny(celeba, tmp_path / "run", train__balance=BY, data__attributes=["Blue"])
    labels = read_celeba(celeba, "train").labels[seen]
    assert len(seen) == 96  # four epochs of 24
    assert [int(((labels[:, 0] == r) & (labels[:, 1] == g)).sum()) for r in (0, 1) for g in (0, 1)] == [24] * 4


def test_a_resumed_run_ends_as_an_uninterrupted_one(celeba, balanced_run, tmp_path):
    run = RunFolder(tmp_path / "runs")
    config = RunFolder(balanced_run).read_config()
    with pytest.raises(StoppedHereError):
        train(config, run.path, CPU, Stopping())
    train_tiny(celeba, run.path, resume=True, train__balance=BY)
    assert comparable(run.path) == comparable(balanced_run)


def test_another_balance_is_another_run(celeba, balanced_run, trained_run):
    assert comparable(balanced_run) != comparable(trained_run)
    with pytest.raises(UsageError, match=r"train.balance \(\) where the run has \('Red', 'Green'\)"):
        train_tiny(celeba, balanced_run, resume=True)


def test_groups_of_attributes_that_are_not_trained_on_must_stay_the_same(celeba, tmp_path):
    """They are no part of what the model learns, and yet of the order in which it does."""
    data, run = tmp_path / "celeba", tmp_path / "run"
    shutil.copytree(celeba, data)
    options = {"train__balance": ["Red"], "data__attributes": ["Blue"]}
    train_tiny(data, run, **options, train__steps=2)
    table = data / "list_attr_celeba.txt"
    lines = table.read_text().splitlines()
    name, first, *others = lines[2].split()
    lines[2] = " ".join([name, str(-int(first)), *others])
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(VitpeError, match="the data differs from what"):
        train_tiny(data, run, resume=True, **options, train__steps=4)


def test_empty_groups_are_told(celeba, tmp_path):
    """Bright is what at least two of the colours are: not without any two."""
    notes = train_tiny(celeba, tmp_path / "run", train__balance=[*BY, "Bright"], train__steps=1).notes
    assert "no image is in Red=0,Green=0,Bright=1 nor in Red=1,Green=1,Bright=0: balanced without" in notes
    assert "balanced: an epoch is 24 draws, 4 from each of 6 groups; an image is drawn" in notes


@pytest.mark.parametrize(
    ("balance", "error", "hint"),
    [
        ("Rde", "no attribute 'Rde' in the data", "did you mean Red? there are Red, Green, Blue, Bright"),
        ("Red,Red", "balance 'Red, Red' names one twice", "name each attribute once: --balance Blond_Hair,Male"),
        ("Red,", "balance 'Red, ' names no attribute", "name each attribute once: --balance Blond_Hair,Male"),
        ("a,b,c,d,e,f", "balance names 6 attributes", "name at most 5: groups soon are too small"),
    ],
)
def test_what_means_nothing_is_refused(celeba, tmp_path, balance, error, hint):
    called = call_vitpe("train", *tiny_options(celeba), "--balance", balance, "--run", tmp_path / "run")
    assert (called.code, called.stderr) == (2, f"error: {error}\nhint: {hint}\n")
    assert not (tmp_path / "run").exists()


def test_one_group_alone_cannot_be_balanced(celeba, tmp_path):
    shutil.copytree(celeba, tmp_path / "celeba")
    table = tmp_path / "celeba" / "list_attr_celeba.txt"
    count, names, *rows = table.read_text().splitlines()
    rows = [" ".join([row.split()[0], "-1", *row.split()[2:]]) for row in rows]
    table.write_text("\n".join([count, names, *rows]) + "\n")
    with pytest.raises(UsageError, match="all 24 training images are in the group Red=0"):
        train_tiny(tmp_path / "celeba", tmp_path / "run", train__balance=["Red"])
