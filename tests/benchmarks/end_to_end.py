"""`vitpe train` against the loop that people write: DataLoader, torchvision transforms, a timm ViT, AdamW.

Same JPEGs, labels, batch, model size, threads and optimizer, every patch, no average of the weights; ours in the
precision that it chooses and in float32, the loop in float32 and, where we choose that, with bfloat16 autocast. Each
run is a process of its own. What is measured is images a second from the first update to the last, imports and set-up
aside.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from tests.benchmarks.measure import Row, rows
from tests.helpers import log_rows
from vitpe.config import TrainConfig
from vitpe.training.forward import choose_precision

MODELS = {"ViT-Ti/16": (192, 12, 3, 32), "tiny": (128, 4, 2, 64)}
"""name → width, depth, heads, batch size"""


def measure(celeba: Path, repeats: int = 3, steps: int = 40) -> list[Row]:
    found = []
    for name in MODELS:
        contenders = {
            "vitpe": partial(_train_vitpe, celeba, name, steps, "auto"),
            "vitpe, float32": partial(_train_vitpe, celeba, name, steps, "fp32"),
            "DataLoader + timm, float32": partial(_train_peer, celeba, name, steps, "fp32"),
        }
        if choose_precision(TrainConfig(), torch.device("cpu")) == "bf16":
            contenders["DataLoader + timm, bf16"] = partial(_train_peer, celeba, name, steps, "bf16")
        rates: dict[str, list[float]] = {contender: [] for contender in contenders}
        for _ in range(repeats):
            for contender, train in contenders.items():
                rates[contender].append(train())
        found += rows(f"end to end, {name}", "images/s", rates)
    return found


def _train_vitpe(celeba: Path, name: str, steps: int, precision: str) -> float:
    width, depth, heads, batch = MODELS[name]
    values = {
        "model.embed_dim": width,
        "model.depth": depth,
        "model.num_heads": heads,
        "model.global_pool": '"token"',
        "model.drop_path_rate": 0.0,
        "train.muon_lr": "null",  # AdamW for all, like the peer
        "train.patch_keep": 1.0,
        "train.ema_decay": 0.0,
        "train.precision": f'"{precision}"',
        "train.num_evals": 1,
        "train.num_checkpoints": 2,
    }
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "vitpe", "train", "--data", str(celeba), "--run", str(run)]
        command += ["--steps", str(steps), "--batch-size", str(batch), "--num-valid", "8"]
        for key, value in values.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run(command, check=True, capture_output=True)
        speeds = [float(row["images_per_second"]) for row in log_rows(run) if row["images_per_second"]]
    return len(speeds) / sum(1 / speed for speed in speeds)


def _train_peer(celeba: Path, name: str, steps: int, precision: str) -> float:
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.end_to_end"]
    command += [str(celeba), name, str(steps), precision]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["images_per_second"])


def peer(celeba: Path, name: str, steps: int, precision: str) -> float:
    """The usual loop over unpacked JPEGs with as many workers as cores; images a second."""
    import os

    import timm
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    from vitpe.celeba import MEAN, STD
    from vitpe.data.celeba import find_celeba, read_celeba

    width, depth, heads, batch = MODELS[name]
    samples = read_celeba(celeba, "train")
    files = find_celeba(celeba).files
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomCrop((208, 176)),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        count = min(len(samples.names), (steps + 1) * batch)
        prefix = "img_align_celeba/" if files.path.suffix == ".zip" else ""
        for file_name in samples.names[:count]:
            (Path(folder) / file_name).write_bytes(files.read(prefix + file_name))

        class Faces(Dataset):
            def __len__(self) -> int:
                return count

            def __getitem__(self, i: int):
                image = Image.open(Path(folder) / samples.names[i]).convert("RGB")
                return transform(image), torch.from_numpy(samples.labels[i]).float()

        loader = DataLoader(Faces(), batch, shuffle=True, drop_last=True, num_workers=os.cpu_count() or 1)
        model = timm.models.VisionTransformer(
            img_size=(208, 176), patch_size=16, embed_dim=width, depth=depth, num_heads=heads, num_classes=40
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
        loss_of = torch.nn.BCEWithLogitsLoss()
        began = 0.0
        done = 0
        for images, labels in loader:
            if not done:
                began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(images)
            loss = loss_of(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
        return done * batch / (time.perf_counter() - began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("celeba", type=Path)
    parser.add_argument("model")
    parser.add_argument("steps", type=int)
    parser.add_argument("precision", choices=("fp32", "bf16"))
    asked = parser.parse_args()
    print(json.dumps({"images_per_second": peer(asked.celeba, asked.model, asked.steps, asked.precision)}))
