"""What the table of position embeddings is made of: views of images, models of other grids, and what is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from tests.benchmarks import position_value
from tests.model.test_numpy_forward import checkpoint_info
from tests.model.test_pos_embed import random_model


def test_an_image_moves_and_what_was_outside_has_one_colour() -> None:
    stored = torch.arange(3 * 6 * 5, dtype=torch.uint8).reshape(1, 3, 6, 5) + 100
    fill = torch.tensor([1, 2, 3], dtype=torch.uint8)

    def view(down: int, right: int) -> torch.Tensor:
        return position_value.shifted(stored, np.array([[down, right]]), (4, 3), fill)[0]

    whole = stored[0]
    assert torch.equal(view(0, 0), whole[:, 1:5, 1:4])
    assert torch.equal(view(1, -1), whole[:, 0:4, 2:5])  # still inside
    assert torch.equal(view(3, 0)[:, 2:], whole[:, 0:2, 1:4])
    assert (view(3, 0)[:, :2] == fill[:, None, None]).all()
    assert torch.equal(view(-2, 2)[:, :3, 1:], whole[:, 3:6, 0:2])
    assert (view(-2, 2)[:, 3:] == fill[:, None, None]).all()
    assert (view(-2, 2)[:, :, :1] == fill[:, None, None]).all()


def test_shifts_are_up_to_a_fifth_and_the_same_each_time() -> None:
    offsets = position_value.draw_offsets(4000, (208, 176))
    assert np.abs(offsets).max(axis=0).tolist() == [42, 35]
    np.testing.assert_array_equal(offsets[:10], position_value.draw_offsets(4000, (208, 176))[:10])
    assert np.abs(offsets.mean(axis=0)).max() < 1.5  # 4 standard errors of 0.38


@pytest.mark.parametrize("pos_embed", ["learned", "sincos", "factorized", "none"])
def test_a_model_of_another_grid_has_its_embeddings_resampled_as_timm_does(pos_embed: str) -> None:
    model = random_model(pos_embed)
    info = checkpoint_info(model.config)
    same, larger = (position_value.on_grid(model, info, size) for size in (model.config.img_size, (40, 28)))
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in model.state_dict().items())
    expected = resample_abs_pos_embed(model.position_table(), [10, 7], [5, 3])
    torch.testing.assert_close(larger.position_table(), expected, rtol=0, atol=1e-5)
    assert larger.config.grid_size == (10, 7)
    assert bool(expected.any()) == (pos_embed != "none")


def test_what_is_there_is_not_made_again(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (celeba, tmp_path, ["none", "factorized"], 0.5, [0])
    results = position_value.complete(*arguments)
    assert [(each["variant"], each["condition"]) for each in results] == [
        (variant, condition)
        for variant in ("none", "factorized")
        for condition in ("aligned", "shifted", "160x128", "256x208")
    ]
    assert all(0 <= each["accuracy"] <= 1 for each in results)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("\n".join(lines[:6]) + "\n")  # cut in the middle of a model
    assert position_value.complete(*arguments) == results
    monkeypatch.setattr(position_value, "train", None)
    assert position_value.complete(*arguments) == results
    text = position_value.table(results)
    assert f"| none | {results[0]['accuracy']:.4f} / {results[0]['mean_average_precision']:.3f} |" in text
    capsys.readouterr()
