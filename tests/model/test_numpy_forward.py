"""The forward pass in numpy against that in torch, over all that a checkpoint can say."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.test_inputs import MEAN, STD
from tests.model.test_model import randomize
from vitpe.config import PRESETS, ModelConfig
from vitpe.metrics.thresholds import sigmoid
from vitpe.model.inputs import PixelClassifier, classify
from vitpe.model.numpy_forward import NumpyClassifier, gelu
from vitpe.model.shapes import tensor_shapes
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import load_checkpoint, save_checkpoint
from vitpe.runs.metadata import CheckpointInfo
from vitpe.runs.weights import load_arrays


def checkpoint_info(config: ModelConfig) -> CheckpointInfo:
    names = tuple(f"a{number}" for number in range(config.num_classes))
    thresholds = (0.5,) * config.num_classes
    return CheckpointInfo(config, names, MEAN, STD, thresholds, config.img_size, 1, 1, 0, "test")


def random_model(config: ModelConfig) -> VisionTransformer:
    torch.manual_seed(1)
    model = VisionTransformer(config).eval()
    randomize(model)
    return model


def random_image(config: ModelConfig, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, *config.img_size), dtype=np.uint8)


def both(config: ModelConfig, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    model, image = random_model(config), random_image(config, seed)
    expected = classify(PixelClassifier(model, MEAN, STD), torch.from_numpy(image)[None])[0].numpy()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    return NumpyClassifier(config, weights, MEAN, STD)(image), expected


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    with_stem = draw(st.booleans())
    patch_size = draw(st.sampled_from([8, 16] if with_stem else [3, 4, 7, 8, 16]))
    num_heads = draw(st.integers(1, 4))
    return ModelConfig(
        img_size=(patch_size * draw(st.integers(1, 6)), patch_size * draw(st.integers(1, 6))),
        patch_size=patch_size,
        num_classes=draw(st.integers(1, 9)),
        embed_dim=4 * num_heads * draw(st.integers(1, 6)),
        depth=draw(st.integers(1, 4)),
        num_heads=num_heads,
        mlp_ratio=draw(st.sampled_from([0.5, 2.0, 3.3, 4.0])),
        global_pool=draw(st.sampled_from(["token", "avg", "queries"])),
        pos_embed=draw(st.sampled_from(["learned", "sincos", "factorized", "none"])),
        rope=draw(st.sampled_from(["none", "axial", "mixed"])),
        stem_width=draw(st.integers(1, 6)) if with_stem else 0,
    )


@settings(max_examples=50, deadline=None)
@given(configs(), st.integers(0, 99))
def test_any_configuration_has_torchs_logits(config: ModelConfig, seed: int) -> None:
    found, expected = both(config, seed)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(sigmoid(found), sigmoid(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize("preset", ["tiny", "laptop", "reference"])
def test_presets_have_torchs_logits(preset: str) -> None:
    found, expected = both(PRESETS[preset].model)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(configs())
def test_the_shapes_are_those_of_the_model(config: ModelConfig) -> None:
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in VisionTransformer(config).state_dict().items()}
    assert tensor_shapes(config) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_stored_in_16_bits_are_read_as_torch_reads_them(dtype: torch.dtype, tmp_path: Path) -> None:
    config = ModelConfig(img_size=(16, 24), patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    path = tmp_path / "model.safetensors"
    save_checkpoint(
        path, {k: v.to(dtype) for k, v in random_model(config).state_dict().items()}, checkpoint_info(config)
    )
    arrays, info = load_arrays(path)
    model, same = load_checkpoint(path)
    assert info == same
    stored = safetensors.torch.load_file(path)
    for name, value in model.state_dict().items():
        assert stored[name].dtype == dtype
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[name].float())
        np.testing.assert_array_equal(arrays[name], value.numpy())


def test_gelu_has_the_exact_erf_to_the_precision_of_float32() -> None:
    x = np.linspace(-14, 14, 20_001).astype(np.float32)
    exact = np.array([value * math.erfc(-value / math.sqrt(2)) / 2 for value in x.astype(float).tolist()])
    assert np.abs((gelu(x) - exact) / np.maximum(1, np.abs(exact))).max() < 4e-7
    tanh_form = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    assert np.abs(tanh_form - exact).max() > 1e-4  # what is often put in its place would be seen
    np.testing.assert_array_equal(gelu(np.array([-1e4, 0, 1e4], dtype=np.float32)), [0, 0, 1e4])


def test_an_image_is_left_as_it_was() -> None:
    config = PRESETS["tiny"].model
    model, image = random_model(config), random_image(config)
    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    classifier, before = NumpyClassifier(config, weights, MEAN, STD), image.copy()
    first = classifier(image)
    np.testing.assert_array_equal(classifier(image), first)
    np.testing.assert_array_equal(image, before)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(weights[name], value.numpy())


def test_metadata_alone_says_what_is_there(tmp_path: Path) -> None:
    """A claim of more blocks than a file could hold asks for no memory."""
    config = ModelConfig(img_size=(8, 8), patch_size=8, embed_dim=8, depth=1, num_heads=1, num_classes=2)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, random_model(config).state_dict(), checkpoint_info(config))
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"]["vitpe"] = header["__metadata__"]["vitpe"].replace('"depth": 1,', '"depth": 999,')
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    with pytest.raises(Exception, match="tensors are too few for 999 blocks"):
        load_arrays(path)
