"""The exported file, run by onnxruntime, against the model."""

import json
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from vitpe.celeba import MEAN, STD
from vitpe.config import ModelConfig
from vitpe.errors import VitpeError
from vitpe.inference.export import OPSET, export_onnx
from vitpe.model.vit import VisionTransformer

ATTRIBUTES = ("Smiling", "Male", "No_Beard")
THRESHOLDS = (0.5, 0.25, 0.75)


def random_model(global_pool: str = "token", stem_width: int = 0) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(
        ModelConfig(
            img_size=(24, 16),
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
            num_classes=3,
            global_pool=global_pool,
            drop_path_rate=0.5,
            stem_width=stem_width,
        )
    )
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape) * 0.1
    return model


def export(model: VisionTransformer, path: Path) -> None:
    export_onnx(model, path, attributes=ATTRIBUTES, mean=MEAN, std=STD, thresholds=THRESHOLDS)


@pytest.mark.parametrize(("global_pool", "stem_width"), [("token", 0), ("avg", 0), ("queries", 0), ("token", 8)])
def test_onnxruntime_gives_the_models_probabilities(
    global_pool: str, stem_width: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = random_model(global_pool, stem_width)
    path = tmp_path / "model.onnx"
    export(model, path)
    assert capfd.readouterr().out == ""
    assert model.training  # given back as it was
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for batch in (1, 3):
        images = torch.randint(0, 256, (batch, 3, 24, 16), dtype=torch.uint8)
        with torch.inference_mode():
            expected = model.eval()((images / 255 - mean) / std).sigmoid()
        (probs,) = session.run(["probs"], {"images": images.numpy()})
        assert expected.std() > 0.01
        torch.testing.assert_close(torch.from_numpy(probs), expected, rtol=0, atol=1e-4)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(random_model(), path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    assert {item.domain: item.version for item in proto.opset_import} == {"": OPSET}
    values = {item.key: json.loads(item.value) for item in proto.metadata_props}
    assert values == {
        "attributes": list(ATTRIBUTES),
        "thresholds": list(THRESHOLDS),
        "mean": list(MEAN),
        "std": list(STD),
        "img_size": [24, 16],
        "fit": "crop",
    }
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,), (probs,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 3, 24, 16])
    assert (probs.name, probs.type, probs.shape) == ("probs", "tensor(float)", ["batch", 3])
    assert b".py" not in path.read_bytes()  # no stack traces, no paths
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_without_the_extra_the_hint_is_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(VitpeError, match="exporting needs onnxscript") as error:
        export(random_model(), tmp_path / "model.onnx")
    assert error.value.hint == "pip install 'vitpe[export]'"


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(VitpeError, match="cannot write"):
        export(random_model(), tmp_path / "missing" / "model.onnx")
