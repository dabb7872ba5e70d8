"""One JPEG, from the command to its answer, as whole processes: seconds and the most memory that each has taken.

Beside vitpe stand what people start for the same: a timm script, a Hugging Face pipeline and ONNX Runtime, each with a
model of the same size in a local folder, and vitpe's own answer by torch.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.measure import Row, rows
from tests.benchmarks.predicting import write_model
from vitpe.celeba import ATTRIBUTES
from vitpe.config import PRESETS

_TIMM = """
import sys, torch, timm
from PIL import Image
from torchvision.transforms import functional as F
model = timm.models.VisionTransformer(img_size=(208, 176), patch_size=16, embed_dim=128, depth=4, num_heads=2,
                                      num_classes=40).eval()
image = F.center_crop(F.to_tensor(Image.open(sys.argv[1]).convert("RGB")), (208, 176))
with torch.inference_mode():
    print(model(F.normalize(image, [0.5] * 3, [0.5] * 3)[None]).sigmoid()[0].tolist())
"""
_PIPELINE = """
import sys
from transformers import pipeline
print(pipeline("image-classification", sys.argv[2], top_k=40, function_to_apply="sigmoid")(sys.argv[1]))
"""
_ONNX = """
import sys, numpy as np, onnxruntime
from PIL import Image
image = Image.open(sys.argv[1]).convert("RGB").crop((1, 5, 177, 213))
session = onnxruntime.InferenceSession(sys.argv[2])
pixels = np.asarray(image).transpose(2, 0, 1)[None]
print(session.run(None, {session.get_inputs()[0].name: pixels})[0].tolist())
"""


def measure(face: Path | None = None, repeats: int = 10) -> list[Row]:
    """Answers a second; rows "…, MB" hold the peak memory. face: a JPEG of CelebA's size, None for one made here."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        face = face or _noise(place / "face.jpg")
        commands = _commands(place, face)
        # What is installed has its bytecode beside it: the round that warms up writes it.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(place / "bytecode")
        seconds: dict[str, list[float]] = {name: [] for name in (*commands, "vitpe tiny, first of a stream")}
        megabytes: dict[str, list[float]] = {name: [] for name in commands}
        for round_number in range(repeats + 1):  # the first warms up
            for name, command in commands.items():
                wall_s, peak = run_alone(command, environment)
                if round_number:
                    seconds[name].append(wall_s)
                    megabytes[name].append(peak / 1e6)
            if round_number:
                first_s = _first_of_a_stream(place / "tiny.safetensors", face, environment)
                seconds["vitpe tiny, first of a stream"].append(first_s)
    answers = {name: [1 / each for each in all_s] for name, all_s in seconds.items()}
    memory = {f"{name}, MB": values for name, values in megabytes.items()}
    return rows("one answer", "1/s", answers, "vitpe tiny") + rows("one answer", "MB", memory, "vitpe tiny, MB")


def _commands(place: Path, face: Path) -> dict[str, Sequence[str | Path]]:
    predict = (sys.executable, "-m", "vitpe", "predict", face, "--format", "jsonl", "--checkpoint")
    for preset in ("tiny", "laptop", "base"):
        write_model(place / f"{preset}.safetensors", preset)
    subprocess.run(
        [sys.executable, "-m", "vitpe", "export", place / "tiny.safetensors", "--out", place / "tiny.onnx"],
        check=True,
        capture_output=True,
    )
    _write_pipeline(place / "hf")
    return {
        **{f"vitpe {name}": (*predict, place / f"{name}.safetensors") for name in ("tiny", "laptop", "base")},
        "vitpe tiny, with maps": (*predict, place / "tiny.safetensors", "--maps", place / "maps"),
        "vitpe tiny, torch": (*predict, place / "tiny.safetensors", "--device", "cpu"),
        "timm script": (sys.executable, "-c", _TIMM, face),
        "Hugging Face pipeline": (sys.executable, "-c", _PIPELINE, face, place / "hf"),
        "ONNX Runtime": (sys.executable, "-c", _ONNX, face, place / "tiny.onnx"),
    }


def _write_pipeline(folder: Path) -> None:
    import transformers

    model = PRESETS["tiny"].model
    config = transformers.ViTConfig(
        hidden_size=model.embed_dim,
        num_hidden_layers=model.depth,
        num_attention_heads=model.num_heads,
        intermediate_size=model.mlp_dim,
        image_size=224,
        num_labels=len(ATTRIBUTES),
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor().save_pretrained(folder)


def _noise(path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)).save(path)
    return path


_LAUNCHER = """
import resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Small, because a process that is started counts the memory of the one that starts it as its own."""


def run_alone(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Wall seconds, and the most bytes that the process has had in memory."""
    launched = [sys.executable, "-c", _LAUNCHER, *map(str, command)]
    done = subprocess.run(launched, check=True, capture_output=True, text=True, env=environment)
    wall_s, peak = map(float, done.stdout.split())
    return wall_s, peak * (1 if sys.platform == "darwin" else 1024)


def _first_of_a_stream(checkpoint: Path, face: Path, environment: Mapping[str, str]) -> float:
    """Seconds to the first line, while more names may come."""
    command = [sys.executable, "-m", "vitpe", "predict", "-", "--format", "jsonl", "--checkpoint", str(checkpoint)]
    began = time.perf_counter()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(os.fsencode(face) + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        wall_s = time.perf_counter() - began
        process.stdin.close()
    return wall_s


if __name__ == "__main__":
    for row in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        values = sorted(row.rates if row.unit == "MB" else [1 / rate for rate in row.rates])
        unit = "MB" if row.unit == "MB" else "s"
        print(f"{row.name:35} {values[len(values) // 2]:8.3f} {unit:3} {values[0]:.3f} … {values[-1]:.3f}")
