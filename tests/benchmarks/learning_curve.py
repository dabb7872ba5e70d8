"""How many epochs are best for how many images, and what more images would bring.

    python -m tests.benchmarks.learning_curve CELEBA FOLDER [--preset tiny] [--sizes 1750 3500 7000 14000]
        [--epochs 6.5 13 26 52] [--seeds 0]

A preset is trained on each number of training images for each number of epochs and scored on all of valid after the
last update; FOLDER keeps the runs, which are not trained again. A table in Markdown: accuracy at 0.5 / mAP, means over
seeds; then the best epochs of each size, a power law through these errors (1 - accuracy ~ n^-b, by least squares of the
logarithms), and what it says of all of CelebA. With k sizes the law has k - 2 degrees of freedom: an extrapolation.
"""

import argparse
from pathlib import Path

import numpy as np

from tests.benchmarks.runs import last_scores, trained
from vitpe.celeba import NUM_TRAIN
from vitpe.config import PRESETS

SCORES = ("accuracy", "mean_average_precision")
Results = dict[tuple[int, float], dict[str, float]]
"""(images, epochs) → scores."""


def power_law(sizes: list[int], errors: list[float]) -> tuple[float, float]:
    """(a, b) of errors ~ a · sizes^-b."""
    slope, intercept = np.polyfit(np.log(sizes), np.log(errors), 1)
    return float(np.exp(intercept)), float(-slope)


def best_epochs(results: Results, score: str) -> dict[int, float]:
    """Of each number of images the epochs of the highest score."""
    sizes = sorted({size for size, _ in results})
    return {
        size: max((epochs for n, epochs in results if n == size), key=lambda each: results[size, each][score])
        for size in sizes
    }


def report(results: Results) -> str:
    """The tables, and what they say."""
    sizes, all_epochs = (sorted({key[part] for key in results}) for part in (0, 1))
    lines = [f"| images | {' | '.join(f'{epochs:g} epochs' for epochs in all_epochs)} |", "| --- " * len(all_epochs)]
    lines[1] += "| --- |"
    for size in sizes:
        cells = [results[size, epochs] for epochs in all_epochs]
        lines.append(f"| {size:,} | {' | '.join(f'{c[SCORES[0]]:.4f} / {c[SCORES[1]]:.3f}' for c in cells)} |")
    for score in SCORES:
        best = best_epochs(results, score)
        told = ", ".join(f"{epochs:g} of {size:,}" for size, epochs in best.items())
        lines.append(f"\n{score.replace('_', ' ')}: best after {told}")
        if len(best) > 1:
            a, b = power_law([*best], [1 - results[size, epochs][score] for size, epochs in best.items()])
            there = 1 - a * NUM_TRAIN**-b
            lines.append(f"1 - score ~ n^-{b:.3f}; extrapolated to {NUM_TRAIN:,} images: {there:.4f}")
            edge = [size for size, epochs in best.items() if epochs in (all_epochs[0], all_epochs[-1])]
            if edge:
                lines.append(f"the best is the first or last number of epochs of {edge}: try others")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("celeba", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_750, 3_500, 7_000, 14_000])
    parser.add_argument("--epochs", type=float, nargs="+", default=[6.5, 13, 26, 52])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    results: Results = {}
    for size in asked.sizes:
        for epochs in asked.epochs:
            found = []
            for seed in asked.seeds:
                options = ["--data", str(asked.celeba), "--num-train", str(size), "--epochs", f"{epochs:g}"]
                options += ["--preset", asked.preset, "--seed", str(seed)]
                options += ["--set", "train.num_evals=1", "--set", "train.num_checkpoints=1"]
                run = asked.folder / f"{asked.preset}-{size}-images-{epochs:g}-epochs-seed-{seed}"
                found.append(last_scores(trained(run, *options)))
            results[size, epochs] = {score: float(np.mean([each[score] for each in found])) for score in SCORES}
            print(f"{size:,} images, {epochs:g} epochs: {results[size, epochs]}", flush=True)
    print(report(results))


if __name__ == "__main__":
    main()
