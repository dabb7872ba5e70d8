"""The benchmarks that take long, or a GPU: what they do, on the CPU and a tiny dataset."""

import io
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.benchmarks import gpu, group_mending, learning
from vitpe.config import PRESETS
from vitpe.data.augmentation import Augmentation
from vitpe.data.celeba import read_celeba
from vitpe.data.storage import ImageStore

CPU = torch.device("cpu")


def test_windows_of_data_and_of_one_batch_take_turns(
    celeba: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n"))
    monkeypatch.setattr(gpu.MeasuredBatches, "seconds", 0.0)  # windows of five steps
    batches = gpu.MeasuredBatches(
        ImageStore(read_celeba(celeba, "train"), CPU), (208, 176), 8, Augmentation(0, True, 0.5, 143)
    )
    taken: list[bytes] = []
    with pytest.raises(SystemExit):
        for batch in batches.from_step(0):
            taken.append(batch.images.numpy().tobytes())
    ready, measured = capsys.readouterr().out.splitlines()
    assert ready == "ready"
    assert {name: len(rates) for name, rates in json.loads(measured)["rates"].items()} == {"vitpe": 2, gpu.FIXED: 2}
    windows = [taken[-20 + start : -20 + start + 5 or None] for start in range(0, 20, 5)]
    assert [len({*window}) for window in windows] == [5, 1, 5, 1]
    assert windows[1][0] == windows[3][0] == taken[0]


def test_all_contenders_train_and_are_timed(celeba: Path) -> None:
    rows = gpu.measure(celeba, device="cpu", groups=(("tiny",),), seconds=0.05)
    assert {row.suite for row in rows} == {"training, tiny, cpu"}
    found = {(row.name, row.unit): row for row in rows}
    assert [*found] == [
        ("vitpe", "images/s"),
        (gpu.FIXED, "images/s"),
        ("timm, compiled", "images/s"),
        (gpu.PRODUCTS, "images/s"),
        ("vitpe", "host ms a step"),
        ("vitpe", "s an epoch of CelebA"),
    ]
    assert all(row.median > 0 for row in rows)
    ours = found["vitpe", "images/s"]
    assert ours.ratio == 1
    assert found["vitpe", "s an epoch of CelebA"].median == pytest.approx(162_770 / ours.median)


@pytest.mark.parametrize(("case", "num_kept"), [(gpu.ALL_PATCHES, 143), ("reference", 72)])
def test_operations_of_an_image(case: str, num_kept: int) -> None:
    """By hand: for a token 12 · D² in a block's maps and 2 · T · D in its attention; the last block has keys and values
    of all tokens, and the rest of one; patches of 768 numbers, which need no gradient. Two for each, backwards twice.
    """
    config, tokens = PRESETS["reference"].model, 1 + num_kept
    d = config.embed_dim
    blocks = (config.depth - 1) * tokens * (12 * d * d + 2 * tokens * d) + tokens * 2 * d * d + 10 * d * d
    assert gpu.operations(gpu._preset(case)) == pytest.approx(6 * blocks + 4 * num_kept * 768 * d, rel=0.002)


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
        gpu.measure(tmp_path / "nothing", device="cpu", groups=(("tiny",),), seconds=0.05)


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
