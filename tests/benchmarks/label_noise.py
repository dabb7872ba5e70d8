"""Whether the labels that a model doubts are the wrong ones: drawn faces, whose truth is known, with labels flipped.

    python -m tests.benchmarks.label_noise RUN [--faces 2000] [--flips 0.05] [--seeds 3] [--device cpu]

RUN was trained on drawn faces, whose labels are noisy of themselves, but not with these flips. It answers the test
split; a share of that split's labels is flipped, and all labels are ranked as `vitpe eval --suspects` ranks them. One
line of JSON a seed: for what was flipped, and for all labels that differ from what is painted, chance (the share of
such labels), precision among the first k, average precision; and of the labels in the file the precision and recall.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from vitpe.celeba import ATTRIBUTES
from vitpe.data.drawn_faces import DrawnFaces
from vitpe.data.samples import stored_size
from vitpe.inference.evaluate import answer
from vitpe.inference.fit import LoadedCheckpoint
from vitpe.metrics.suspects import find_suspects
from vitpe.runs.find import weights_file

Labels = NDArray[np.uint8]


def flip(labels: Labels, share: float, seed: int) -> tuple[Labels, NDArray[np.bool_]]:
    """The labels (n, A) with a share of them flipped, whichever they are, and which."""
    flipped = np.random.default_rng(seed).random(labels.shape) < share
    return labels ^ flipped.astype(np.uint8), flipped


def rank(probs: NDArray[np.float64], labels: Labels, wrong: NDArray[np.bool_]) -> dict[str, float]:
    """How well the ranking of `labels` (n, A) by self-confidence finds those that are `wrong`."""
    suspects = find_suspects(probs, labels, [f"a{a}" for a in range(labels.shape[1])])
    doubt, found, wrong = 1 - suspects.self_confidence.ravel(), suspects.found.ravel(), wrong.ravel()
    first = wrong[np.argsort(-doubt, kind="stable")]
    return {
        "chance": wrong.mean(),
        **{f"precision_at_{k}": first[:k].mean() for k in (100, 1000, int(wrong.sum())) if k <= len(first)},
        "average_precision": average_precision_score(wrong, doubt),
        "found": int(found.sum()),
        "found_precision": wrong[found].mean() if found.any() else float("nan"),
        "found_recall": found[wrong].mean(),
    }


class _Silent:
    def start(self, description: str, total: int) -> Callable[[int], None]:
        return lambda count: None

    def note(self, text: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--faces", type=int, default=2000)
    parser.add_argument("--flips", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    loaded = LoadedCheckpoint.of(weights_file(asked.run))
    faces = DrawnFaces("test", asked.faces, stored_size=stored_size(loaded.info.model.img_size))
    result = answer(loaded, "test", faces, torch.device(asked.device), _Silent())
    seen = faces.seen[:, [ATTRIBUTES.index(name) for name in result.attributes]]
    for seed in range(asked.seeds):
        labels, flipped = flip(result.labels, asked.flips, seed)
        measured = {
            "flipped": rank(result.probs(), labels, flipped),
            "not as painted": rank(result.probs(), labels, labels != seen),
        }
        line = {"seed": seed, "faces": asked.faces}
        line |= {what: {name: round(float(v), 4) for name, v in row.items()} for what, row in measured.items()}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
