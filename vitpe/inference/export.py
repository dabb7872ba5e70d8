"""Model → ONNX: uint8 images in, probabilities out, so that whoever runs it needs nothing else of vitpe."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitpe.config import Fit
from vitpe.errors import VitpeError
from vitpe.files import write_atomic
from vitpe.model.inputs import PixelClassifier
from vitpe.model.vit import VisionTransformer
from vitpe.outputs import MARK

OPSET = 20  # the first with Gelu as one operator


def export_onnx(
    model: VisionTransformer,
    path: Path,
    *,
    attributes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    thresholds: Sequence[float],
    fit: Fit = "crop",
) -> None:
    """Write `model` to `path` as one ONNX file of opset OPSET.

    Input `images`: uint8 (B, 3, H, W), RGB in 0..255, (H, W) the model's img_size, any B. Scaling to 0..1,
    normalisation by `mean` and `std` (of values in 0..1) and the sigmoid are inside. Output `probs`: float32 (B, A),
    one column for each of `attributes`. The file's metadata_props hold `attributes`, `thresholds` (an attribute is
    there at or above its own), `mean`, `std`, `img_size` and `fit` (how images came to that size) as JSON.
    VitpeError without the `export` extra, or when `path` cannot be written.
    """
    _require_packages("onnx", "onnxscript")
    training, device = model.training, model.cls_token.device
    classifier = nn.Sequential(PixelClassifier(model.cpu(), mean, std), nn.Sigmoid()).eval()
    try:
        images = torch.zeros(2, model.config.in_chans, *model.config.img_size, dtype=torch.uint8)
        program = torch.onnx.export(
            classifier,
            (images,),
            dynamo=True,
            verbose=False,  # it would print on stdout
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probs"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    finally:
        model.to(device).train(training)
    assert program is not None
    proto = program.model_proto
    _forget_origin(proto)
    values = {
        "attributes": list(attributes),
        "thresholds": list(thresholds),
        "mean": list(mean),
        "std": list(std),
        "img_size": list(model.config.img_size),
        "fit": fit,
    }
    for key, value in values.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    proto.doc_string = MARK
    write_atomic(path, proto.SerializeToString())


def _require_packages(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise VitpeError(f"exporting needs {' and '.join(missing)}", hint="pip install 'vitpe[export]'")


def _forget_origin(proto: Any) -> None:
    """Take out the exporter's notes on nodes and values: stack traces with the paths of this machine, half the file."""
    graph = proto.graph
    for items in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer, [graph]):
        for item in items:
            item.ClearField("metadata_props")
