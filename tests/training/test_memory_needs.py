"""Training that cannot fit into memory is refused before anything is built, and nothing that fits is."""

from dataclasses import replace

import pytest
import torch

from tests.helpers import SMALL, tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.config import PRESETS, TrainConfig
from vitpe.errors import UsageError
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.training import memory_needs
from vitpe.training.memory_needs import check_fits, memory_bytes, needed_bytes

CPU = torch.device("cpu")
MEASURED_GB = {
    ("tiny", 64, "fp32"): 0.22,
    ("tiny", 512, "fp32"): 1.64,
    ("tiny", 512, "bf16"): 1.04,
    ("laptop", 64, "fp32"): 1.00,
    ("laptop", 256, "fp32"): 3.23,
    ("laptop", 256, "bf16"): 1.96,
    ("reference", 16, "fp32"): 0.75,
    ("reference", 64, "bf16"): 1.23,
    ("reference", 64, "fp32"): 1.90,
    ("base", 4, "fp32"): 1.56,
    ("base", 32, "bf16"): 2.27,
}
"""(preset, batch size, precision) → what two steps added to a process on the CPU."""


@pytest.mark.parametrize(("preset", "batch_size", "precision"), MEASURED_GB)
def test_it_is_reckoned_below_what_was_measured_and_near_it(preset, batch_size, precision):
    chosen = PRESETS[preset]
    reckoned = sum(needed_bytes(chosen.model, chosen.train, batch_size, precision)) / 1e9
    measured = MEASURED_GB[preset, batch_size, precision]
    assert 0.4 * measured < reckoned < measured


def test_weights_are_counted_as_they_are():
    train = replace(TrainConfig(), ema_decay=0)
    for model in (SMALL, replace(SMALL, depth=3, stem_width=8), replace(SMALL, depth=1, global_pool="queries")):
        counted, _ = needed_bytes(model, train, 1, "fp32")
        assert counted == 4 * 3 * num_parameters(VisionTransformer(model))


def test_what_is_reckoned_grows_with_what_is_asked_for():
    model, train = SMALL, TrainConfig()
    weights, activations = needed_bytes(model, train, 8, "fp32")
    assert needed_bytes(model, train, 16, "fp32") == (weights, 2 * activations)
    assert needed_bytes(model, train, 8, "bf16") == (weights, activations // 2)
    assert needed_bytes(model, replace(train, muon_lr=None, ema_decay=0), 8, "fp32") == (weights, activations)
    assert needed_bytes(model, replace(train, patch_keep=0.5), 8, "fp32")[1] < activations
    averaged, queried = (needed_bytes(replace(model, global_pool=p), train, 8, "fp32")[1] for p in ("avg", "queries"))
    assert activations < queried < averaged  # the last block computes what is read


def test_the_message_says_which_of_both_is_too_large(monkeypatch):
    monkeypatch.setattr(memory_needs, "memory_bytes", lambda device: 10**9)
    model, train = PRESETS["base"].model, PRESETS["base"].train
    with pytest.raises(UsageError, match=r"training needs \d.\d GB at least, this machine has 1.0 GB") as caught:
        check_fits(model, train, 1, CPU, "fp32")
    assert "choose a smaller model" in caught.value.hint
    with pytest.raises(UsageError, match=r"training needs \d.\d GB at least") as caught:
        check_fits(PRESETS["tiny"].model, train, 2000, CPU, "fp32")
    assert caught.value.hint.startswith("choose smaller batches: --batch-size 2000 takes")
    check_fits(PRESETS["tiny"].model, train, 8, CPU, "fp32")


def test_the_machine_says_what_it_has():
    there = memory_bytes(CPU)
    assert there is None or 10**8 < there < 10**14


@pytest.mark.parametrize(
    "values",
    [
        {"model__img_size": [2000, 2000], "model__patch_size": 1, "model__embed_dim": 4096},
        {"model__embed_dim": 65_536, "model__mlp_ratio": 100.0, "model__depth": 1000},
        {"model__stem_width": 8192, "model__patch_size": 8, "model__embed_dim": 65_536, "model__depth": 1000},
    ],
)
def test_models_beyond_any_machine_are_refused_at_once(values, celeba, tmp_path):
    called = call_vitpe("train", *tiny_options(celeba, **values), "--run", tmp_path / "run")
    assert called.code == 2
    error, hint = called.stderr.splitlines()[-2:]
    assert error.startswith("error: training needs ")
    assert error.endswith(" GB")
    assert hint.startswith("hint: ")
