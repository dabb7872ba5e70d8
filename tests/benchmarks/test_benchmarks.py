"""The benchmarks that take long, or a GPU: what they do, on the CPU and a tiny dataset."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.benchmarks import gpu, group_mending, learning
from vitpe.data.augmentation import Augmentation
from vitpe.data.celeba import read_celeba
from vitpe.data.storage import ImageStore

CPU = torch.device("cpu")


def test_the_fixed_batch_is_the_first_one_again_and_again(celeba: Path) -> None:
    options = (ImageStore(read_celeba(celeba, "train"), CPU), (208, 176), 8, Augmentation(0, True, 0.5, 143))
    first = next(gpu.Batches(*options).from_step(3))
    for batch in itertools.islice(gpu.FixedBatch(*options).from_step(3), 3):
        assert torch.equal(batch.images, first.images)
        assert torch.equal(batch.labels, first.labels)
        assert torch.equal(batch.keep, first.keep)


def test_both_contenders_train_and_are_timed(celeba: Path) -> None:
    rows = gpu.measure(celeba, device="cpu", preset="tiny", steps=4, repeats=1)
    assert [(row.name, row.suite, len(row.rates)) for row in rows] == [
        ("vitpe", "training, tiny, cpu", 1),
        (gpu.FIXED, "training, tiny, cpu", 1),
    ]
    assert all(row.median > 0 for row in rows)
    assert rows[0].ratio == 1


def test_all_images_are_parted_anew(celeba: Path, tmp_path: Path) -> None:
    group_mending.part_anew(celeba, tmp_path / "parted", seed=0)
    parts = [{*read_celeba(tmp_path / "parted", split).names} for split in ("train", "valid", "test")]
    before = [{*read_celeba(celeba, split).names} for split in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [20, 10, 10]
    assert set.union(*parts) == set.union(*before)
    assert parts[2] != before[2]


def test_without_a_gpu_it_is_skipped_in_one_line(
    celeba: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.measure(celeba) == []
    assert capsys.readouterr().err == "gpu: skipped, no GPU here\n"


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no folder"):
        gpu.measure(tmp_path / "nothing", device="cpu", preset="tiny", steps=4, repeats=1)


def test_a_recipe_learns_in_the_images_it_has(celeba: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(_: object) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))

    monkeypatch.setitem(learning.RECIPES, "linear", learning.Recipe(make, lr=0.2, batch_size=8, pos_weight=True))
    scores = {}
    for num_images in (8, 480):
        found = learning.learn(celeba, "linear", "tiny", 0.0, num_images, seed=0)
        assert (found["parameters"], found["images_seen"]) == (16, num_images)
        # A product of 3 × 4 for the logits, and one for the weights' gradient, an image; no gradient of the images.
        assert found["training_flops"] == 2 * (2 * 3 * 4) * num_images
        scores[num_images] = found["accuracy"]
    assert scores[8] < 0.9 < scores[480]


def test_the_learning_rate_of_a_recipe_warms_up_and_ends_at_its_floor() -> None:
    recipe = learning.Recipe(lambda _: nn.Identity(), lr=1.0, warmup_fraction=0.1, floor=0.2)
    rates = [recipe.rate(step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert (rates[10], rates[55], rates[100]) == pytest.approx((1.0, 0.6, 0.2))
