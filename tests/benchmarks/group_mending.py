"""What mends the worst group: balanced training, the head retrained on balanced groups, both, against neither.

    python -m tests.benchmarks.group_mending CELEBA FOLDER [--by Blond_Hair,Male] [--epochs 5] [--seed 0]

All images of CELEBA, whatever their split, are parted anew at random: half to train, a quarter to fit heads on (valid),
a quarter to report (test), since of CelebA's own splits a sample may hold hardly any blond men. People may be in more
than one part. `tiny` is trained twice in FOLDER, plainly and with `--balance`, and of both the head is retrained with
`eval --fit head`; what is in FOLDER already is not made again. Then a line of JSON for each model and attribute: the
accuracy of each group of test, of all images, and of the worst group, with 95 % intervals, and the paired difference of
the worst group's accuracy to the plain model.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vitpe.data.celeba import read_celeba
from vitpe.data.samples import stored_size

LISTS = ("list_attr_celeba.txt", "img_align_celeba", "img_align_celeba.zip")


def part_anew(celeba: Path, folder: Path, seed: int) -> None:
    """A folder of links to CelebA's files, with a partition of its own."""
    names = [
        name
        for split in ("train", "valid", "test")
        for name in read_celeba(celeba, split, stored_size((208, 176))).names
    ]
    order = np.random.default_rng(seed).permutation(len(names))
    part = np.searchsorted([len(names) // 2, len(names) * 3 // 4], np.argsort(order), side="right")
    folder.mkdir(parents=True)
    for name in LISTS:
        if (celeba / name).exists():
            (folder / name).symlink_to((celeba / name).absolute())
    lines = sorted(f"{Path(name).name} {number}" for name, number in zip(names, part.tolist(), strict=True))
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def vitpe(*arguments: str | Path) -> Any:
    """What the command prints as JSON."""
    command = [sys.executable, "-m", "vitpe", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def make(folder: Path, by: str, epochs: float, seed: int) -> dict[str, Path]:
    """The four checkpoints."""
    data, made = folder / "celeba", {}
    for name, options in (("plain", []), ("balance", ["--balance", by])):
        run = folder / name
        options = [*options, "--epochs", str(epochs), "--seed", str(seed)]
        resume = ["--resume"] if (run / "config.json").exists() else []  # a finished run only says that it is
        vitpe("train", "--data", data, "--run", run, *options, *resume)
        made[name], made[f"{name} + head"] = run / "best.safetensors", folder / f"{name}-head.safetensors"
        if not made[f"{name} + head"].exists():
            out = made[f"{name} + head"]
            vitpe("eval", run, "--data", data, "--fit", "head", "--by", by, "--out", out, "--split", "test")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("celeba", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--by", default="Blond_Hair,Male")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    data = asked.folder / "celeba"
    if not data.exists():
        part_anew(asked.celeba, data, asked.seed)
    made = make(asked.folder, asked.by, asked.epochs, asked.seed)
    on_test = ("--data", data, "--split", "test", "--by", asked.by)
    for name, path in made.items():
        document = vitpe("eval", path, *on_test)
        compared = vitpe("eval", "--compare", made["plain"], path, *on_test)
        sizes = {group["group"]: group["num_images"] for group in document["by"]["groups"]}
        differences = {each["attribute"]: each["worst_group"] for each in compared["attributes"]}
        for scores in document["by"]["scores"]:
            if scores["attribute"] not in asked.by.split(","):
                continue
            groups = {each["group"]: each for each in scores["groups"]}
            worst = differences[scores["attribute"]]
            line = {
                "model": name,
                "attribute": scores["attribute"],
                "accuracy": scores["accuracy"],
                "groups": {
                    group: [sizes[group], each["accuracy"], each["accuracy_low"], each["accuracy_high"]]
                    for group, each in groups.items()
                },
                "worst": scores["worst_group"],
                "worst_minus_plain": [worst["difference"], worst["low"], worst["high"]],
                "mean_accuracy_of_all_attributes": document["mean"]["accuracy"]["value"],
            }
            print(json.dumps(rounded(line)), flush=True)


def rounded(value: Any) -> Any:
    """Fractions with four digits, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
