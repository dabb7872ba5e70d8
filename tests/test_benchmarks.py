"""The benchmark that waits for a GPU: what it does, on the CPU and a tiny dataset."""

import itertools
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu
from vitpe.data.celeba import read_celeba

CPU = torch.device("cpu")


def test_the_fixed_batch_is_the_first_one_again_and_again(celeba: Path) -> None:
    options = {"crop_size": (208, 176), "batch_size": 8, "device": CPU, "training": True}
    fixed = gpu.FixedBatch(read_celeba(celeba, "train"), **options)
    real = gpu.Batches(read_celeba(celeba, "train"), **options)
    first = next(real.from_step(3, torch.tensor))
    for batch in itertools.islice(fixed.from_step(3, torch.tensor), 3):
        assert torch.equal(batch.images, first.images)
        assert torch.equal(batch.labels, first.labels)
        assert batch.beside == 3


def test_both_contenders_train_and_are_timed(celeba: Path) -> None:
    rows = gpu.measure(celeba, device="cpu", preset="tiny", steps=4, repeats=1)
    assert [(row.name, row.suite, len(row.rates)) for row in rows] == [
        ("vitpe", "training, tiny, cpu", 1),
        (gpu.FIXED, "training, tiny, cpu", 1),
    ]
    assert all(row.median > 0 for row in rows)
    assert rows[0].ratio == 1


def test_without_a_gpu_it_is_skipped_in_one_line(
    celeba: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.measure(celeba) == []
    assert capsys.readouterr().err == "gpu: skipped, no GPU here\n"


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no folder"):
        gpu.measure(tmp_path / "nothing", device="cpu", preset="tiny", steps=4, repeats=1)
