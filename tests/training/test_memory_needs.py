"""Training that cannot fit into memory is refused before anything is built, and nothing that fits is."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention

from tests.helpers import SMALL, tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.celeba import MEAN, STD
from vitpe.config import PRESETS, ModelConfig, TrainConfig
from vitpe.errors import UsageError
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.training import memory_needs
from vitpe.training.forward import TrainForward
from vitpe.training.memory_needs import Needs, check_fits, memory_bytes, training_needs
from vitpe.training.optimizer import make_optimizers

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


FP32, BF16 = (replace(TrainConfig(), precision=precision) for precision in ("fp32", "bf16"))


@pytest.mark.parametrize(("preset", "batch_size", "precision"), MEASURED_GB)
def test_it_is_reckoned_below_what_was_measured_and_near_it(preset: str, batch_size: int, precision: Any) -> None:
    chosen = PRESETS[preset]
    reckoned = training_needs(chosen.model, replace(chosen.train, precision=precision), batch_size, "cpu").total / 1e9
    measured = MEASURED_GB[preset, batch_size, precision]
    assert 0.6 * measured < reckoned < measured


def kept_bytes(model: ModelConfig, train: TrainConfig, num_images: int, device_type: str) -> int:
    """What autograd keeps of a forward pass on the CPU, each memory once; with a GPU's attention for "cuda"."""
    built = VisionTransformer(model)
    forward = TrainForward(built, MEAN, STD, train.precision)
    if device_type == "cuda":
        for block in built.blocks:
            block.attn.attend = scaled_dot_product_attention
    own = {tensor.data_ptr() for tensor in [*built.parameters(), *forward.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    images = torch.zeros(num_images, 3, *model.img_size, dtype=torch.uint8)
    patches = torch.rand(num_images, model.num_patches).argsort(dim=1)[:, : round(train.patch_keep * model.num_patches)]
    built.set_depth_draws(torch.rand(num_images, 2 * model.depth))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(images, patches if train.patch_keep < 1 else None)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", PRESETS)
def test_activations_are_those_that_a_step_keeps(preset: str, precision: Any, device_type: str) -> None:
    model = replace(PRESETS[preset].model, depth=4)  # of which two are counted, and what one more adds
    train = replace(PRESETS[preset].train, precision=precision)
    reckoned = training_needs(model, train, 5, device_type).activations
    assert reckoned == pytest.approx(kept_bytes(model, train, 5, device_type), rel=0.05)


@pytest.mark.parametrize(
    "values",
    [
        {"rope": "axial"},
        {"rope": "mixed", "drop_path_rate": 0.1},
        {"global_pool": "avg"},
        {"stem_width": 8, "depth": 1},
        {"pos_embed": "sincos", "depth": 5, "global_pool": "queries"},
    ],
)
@pytest.mark.parametrize("patch_keep", [0.5, 1.0])
def test_models_of_all_kinds_are_counted(values: dict[str, Any], patch_keep: float) -> None:
    model = replace(SMALL, img_size=(64, 48), embed_dim=64, **values)
    train = replace(FP32, patch_keep=patch_keep)
    assert training_needs(model, train, 16, "cpu").activations == pytest.approx(
        kept_bytes(model, train, 16, "cpu"), rel=0.05
    )


@pytest.mark.parametrize("muon_lr", [None, 0.01])
@pytest.mark.parametrize("ema_decay", [0.0, 0.99])
def test_weights_are_counted_as_they_are(muon_lr: float | None, ema_decay: float) -> None:
    train = replace(FP32, muon_lr=muon_lr, ema_decay=ema_decay)
    for model in (SMALL, replace(SMALL, depth=5, stem_width=8), replace(SMALL, depth=1, global_pool="queries")):
        built = VisionTransformer(model)
        state = sum(tensor.numel() for tensor in make_optimizers(built, train).expected_state().values() if tensor.ndim)
        numbers = num_parameters(built) * (2 if ema_decay else 1) + state
        needs = training_needs(model, train, 1, "cpu")
        assert (needs.weights, needs.gradients) == (4 * numbers, 4 * num_parameters(built))


def test_what_is_reckoned_grows_with_what_is_asked_for() -> None:
    def activations(train: TrainConfig, batch_size: int, **values: Any) -> int:
        return training_needs(replace(SMALL, **values), train, batch_size, "cuda").activations

    eight = activations(FP32, 8)
    assert activations(FP32, 16) == 2 * eight
    assert 0.4 * eight < activations(BF16, 8) < 0.7 * eight
    assert activations(replace(FP32, patch_keep=0.5), 8) < eight
    averaged, queried = (activations(FP32, 8, global_pool=pool) for pool in ("avg", "queries"))
    assert eight < queried < averaged  # the last block computes what is read


def test_parts_of_a_batch_take_what_each_takes() -> None:
    model, train = PRESETS["base"].model, replace(PRESETS["base"].train, precision="bf16", patch_keep=1.0)
    whole = training_needs(model, train, 256, "cuda")
    parts = training_needs(model, replace(train, micro_batch_size=32), 256, "cuda")
    alone = training_needs(model, train, 32, "cuda")
    assert parts.activations == alone.activations < whole.activations / 5
    assert parts.total == parts.weights + parts.gradients + parts.activations + parts.batches
    assert alone.total < parts.total < 5e9 < 8e9 < whole.total  # so it trains on 8 GB


def test_the_peak_has_gradients_of_other_parts_beside_activations() -> None:
    assert Needs(10, 3, 4, 1, in_parts=False).total == 15
    assert Needs(10, 3, 4, 1, in_parts=True).total == 18
    assert Needs(10, 4, 3, 1, in_parts=False).total == 15


def refused(there: float, monkeypatch: pytest.MonkeyPatch, *asked: Any) -> UsageError:
    monkeypatch.setattr(memory_needs, "memory_bytes", lambda device: int(there))
    with pytest.raises(UsageError) as caught:
        check_fits(*asked)
    return caught.value


def test_the_message_says_which_of_both_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tiny = PRESETS["base"].model, PRESETS["tiny"].model
    error = refused(1e9, monkeypatch, base, FP32, 1, CPU)
    assert re.fullmatch(r"training needs \d.\d GB at least, this machine has 1.0 GB", error.message)
    assert re.fullmatch(r"the model and its optimizer alone take \d.\d GB: choose a smaller model", error.hint)
    check_fits(tiny, FP32, 8, CPU)


@pytest.mark.parametrize("there", [2e9, 1e9])
def test_the_parts_that_are_named_fit(there: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = PRESETS["tiny"].model
    error = refused(there, monkeypatch, model, BF16, 2000, torch.device("cuda:0"))
    assert re.fullmatch(r"training needs \d.\d GB at least, cuda:0 has free \d.\d GB", error.message)
    named = re.fullmatch(
        r"compute each batch in parts: --set train.micro_batch_size=(\d+) takes (\d.\d) GB", error.hint
    )
    assert named is not None, error.hint
    assert float(named[2]) <= there / 1e9 + 0.05
    size = int(named[1])
    check_fits(model, replace(BF16, micro_batch_size=size), 2000, torch.device("cuda:0"))
    refused(there, monkeypatch, model, replace(BF16, micro_batch_size=2 * size), 2000, torch.device("cuda:0"))


def test_batches_that_are_too_large_by_themselves_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(3e8, monkeypatch, PRESETS["tiny"].model, BF16, 20_000, torch.device("cuda:0"))
    assert re.fullmatch(r"batches that are prepared ahead take \d+.\d GB of it: lower --batch-size", error.hint)


def test_images_that_would_take_the_rest_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (PRESETS["tiny"].model, BF16, 64, torch.device("cuda:0"))
    error = refused(1e9, monkeypatch, *asked, int(0.99e9))
    assert error.message.startswith("1.0 GB of images, and training needs 0.")
    assert error.hint == "keep the images elsewhere: --store auto"
    check_fits(*asked, int(0.5e9))
    needs = training_needs(*asked[:3], "cuda")
    monkeypatch.setattr(memory_needs, "memory_bytes", lambda device: needs.total - needs.batches + 1000)
    check_fits(*asked, 1000)
    with pytest.raises(UsageError):
        check_fits(*asked, 1001)


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
