"""What a training step of each preset asks of a GPU, with and without its CUDA graph: python -m tests.noop_gpu.steps

Counted on the GPU that computes nothing, over the steps between two lengths of a run, so that what is done as often in
both is left out, the rows of the log among it: kernels, products and copies that the host asks for one by one, launches
of graphs, waits for the GPU; those of the threads that prepare batches are among them. Host ms: processor time of the
thread that trains, from step to step of the longer run, of which every tenth is logged; no step can be shorter. Models
are not compiled. Batches are of 16 images, on which neither number depends.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.helpers import write_celeba
from tests.noop_gpu import Command, build, run
from vitpe.config import PRESETS

_SHORT, _LONG = 200, 2000
_CALLS = ("launch", "triton", "blas", "to_device", "on_device")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="all by default")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        celeba = write_celeba(Path(folder) / "celeba", num_train=256, num_valid=8, num_test=8)
        for preset in arguments.presets or PRESETS:
            found[preset] = {graph: measure(library, celeba, preset, graph == "graph") for graph in ("loop", "graph")}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    headings = ("preset", "step", "device calls", "graphs", "waits", "host ms")
    table = Table(*headings, title=f"a step, mean of {_LONG - _SHORT}")
    for preset, both in found.items():
        for name, step in both.items():
            numbers = (step["calls"], step["graph"], step["synchronize"], step["host_ms"])
            table.add_row(preset, name, *(f"{number:,.2f}" for number in numbers))
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def measure(library: Path, celeba: Path, preset: str, graph: bool) -> dict[str, float]:
    """Of one step: device calls, launches of graphs, waits, and the training thread's milliseconds."""
    options = ["train", "--data", celeba, "--device", "cuda", "--store", "device", "--preset", preset]
    options += ["--set", "train.num_evals=1", "--set", "train.num_checkpoints=1", "--set", "train.compile=off"]
    options += ["--set", f"train.cuda_graph={json.dumps(graph)}", "--set", "train.whiten=true"]
    commands = {
        str(steps): Command([*options, "--batch-size", "16", "--steps", str(steps), "--run", f"run-{steps}"])
        for steps in (_SHORT, _LONG)
    }
    with tempfile.TemporaryDirectory() as folder:
        (done,) = run(library, commands, Path(folder), NOOP_GPU_ZEROS="1")
    short, long = done[str(_SHORT)], done[str(_LONG)]
    if short.code or long.code:
        raise RuntimeError(short.stderr + long.stderr)
    per_step = {name: (long.counts[name] - short.counts[name]) / (_LONG - _SHORT) for name in long.counts}
    return {
        "calls": sum(per_step[name] for name in _CALLS) + per_step["graph"],
        "graph": per_step["graph"],
        "synchronize": per_step["synchronize"],
        "host_ms": 1000 * (long.step_ends[-1] - long.step_ends[_SHORT - 1]) / (_LONG - _SHORT),
    }


if __name__ == "__main__":
    main()
