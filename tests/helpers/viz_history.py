"""Checkpoint files for the tests of viz/: written by hand, byte by byte, and embeddings that grow like learned ones."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = (13, 11)


def write_safetensors(
    path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, str] | None = None
) -> Path:
    """tensors: name → (dtype, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata is not None else {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    return write_header(path, header, b"".join(data for _, _, data in tensors.values()))


def write_header(path: Path, header: object, data: bytes = b"", hole: int = 0) -> Path:
    """A safetensors file of any header, its data and, after it, `hole` bytes of nothing that take no space."""
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    if hole:
        os.truncate(path, 8 + len(text) + len(data) + hole)
    return path


def float32(values: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", values.shape, values.astype("<f4").tobytes()


def vitpe_metadata(step: int, grid: tuple[int, int] = GRID, patch_size: int = 16, **fields: Any) -> dict[str, str]:
    model = {"img_size": [grid[0] * patch_size, grid[1] * patch_size], "patch_size": patch_size}
    values = {
        "format_version": 1,
        "model": model,
        "grid_size": list(grid),
        "step": step,
        "images_seen": 64 * step,
        "data_source": "celeba",
        "valid": None,
        "history_only": True,
    }
    return {"format": "pt", "vitpe": json.dumps(values | fields)}


def write_checkpoint(
    path: Path,
    embeddings: NDArray[Any],
    step: int,
    grid: tuple[int, int] = GRID,
    filters: NDArray[Any] | None = None,
    freqs: NDArray[Any] | None = None,
    **fields: Any,
) -> Path:
    """A history file of ours: (N, D) embeddings with a class token's row before them, (D, 3, P, P) filters, and rotary
    frequencies (2, L, h, K).
    """
    class_row = np.full((1, embeddings.shape[1]), 0.5)
    tensors = {"pos_embed": float32(np.concatenate([class_row, embeddings])[None])}
    if filters is not None:
        tensors["patch_embed.proj.weight"] = float32(filters)
    if freqs is not None:
        tensors["rope.freqs"] = float32(freqs)
    return write_safetensors(path, tensors, vitpe_metadata(step, grid, **fields))


def face_embeddings(
    progress: float, grid: tuple[int, int] = GRID, width: int = 192, seed: int = 0
) -> NDArray[np.float64]:
    """What a model of faces might hold after a share `progress` of its training; all zero at 0.

    A few features of a patch's place, most of them equal on both sides of the face, each weighted by its own random
    direction and growing at its own pace, plus noise that matters less and less.
    """
    generator = np.random.default_rng(seed)
    rows, columns = np.indices(grid).astype(float)
    rows, columns = rows / (grid[0] - 1) * 2 - 1, columns / (grid[1] - 1) * 2 - 1
    side = np.abs(columns)

    def bump(row: float, distance: float, size: float) -> NDArray[np.float64]:
        return np.exp(-((rows - row) ** 2 + (side - distance) ** 2) / size**2)

    features = [
        (1.4, 0.1, bump(0.1, 0.0, 1.0) - 0.5),
        (1.5, 0.2, (np.maximum(np.abs(rows), side) > 0.95) * 1.0),
        (1.0, 0.3, rows),
        (0.9, 0.35, np.cos(3 * rows)),
        (0.8, 0.5, np.cos(4 * side)),
        (1.6, 0.55, bump(0.02, 0.5, 0.22)),
        (1.1, 0.65, bump(0.65, 0.0, 0.25)),
        (0.7, 0.6, bump(0.3, 0.0, 0.2)),
        (0.5, 0.5, columns),
        (0.5, 0.7, np.sin(6 * rows) * np.cos(2 * side)),
        (0.35, 0.8, np.sin(4 * columns)),
    ]
    embeddings = np.zeros((grid[0] * grid[1], width))
    for weight, onset, feature in features:
        strength = weight / (1 + np.exp(-12 * (progress - onset * 0.6)))
        embeddings += strength * feature.reshape(-1, 1) * generator.standard_normal(width)
    noise = generator.standard_normal(embeddings.shape)
    growth = min(1.0, 4 * progress)
    return 0.02 * growth * (embeddings + 0.55 * noise)


def filters(width: int = 192, patch_size: int = 16, seed: int = 0) -> NDArray[np.float64]:
    """Smooth random patch filters (D, 3, P, P): sums of a few plane waves with a colour each, plus noise."""
    generator = np.random.default_rng(seed)
    y, x = np.indices((patch_size, patch_size)) / patch_size
    waves = [np.cos(np.pi * (a * x + b * y) + c) for a in range(4) for b in range(4) for c in (0.0, 1.57)]
    basis = np.stack([wave * colour[:, None, None] for wave in waves for colour in (np.ones(3), *np.eye(3))])
    decay = 1 / (1 + np.arange(len(basis)))
    mixture = generator.standard_normal((width, len(basis))) * decay
    return np.tensordot(mixture, basis, 1) + 0.01 * generator.standard_normal((width, 3, patch_size, patch_size))


def write_run(folder: Path, num_frames: int = 60, width: int = 192, last_step: int = 60_000) -> Path:
    """A run folder with `num_frames` history files, the first of step 0 and all zero; returns the folder."""
    last_filters = filters(width)
    for frame in range(num_frames):
        progress = frame / (num_frames - 1)
        step = round(last_step * progress)
        accuracy = 0.805 + 0.1 * (1 - np.exp(-4 * progress))
        write_checkpoint(
            folder / "ckpts" / f"step-{step:07d}.safetensors",
            face_embeddings(progress, width=width),
            step,
            filters=last_filters,
            valid={"mean_accuracy": round(float(accuracy), 4)} if frame else None,
        )
    return folder
