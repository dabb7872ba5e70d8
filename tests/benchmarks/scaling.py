"""What a training step takes on 1, 8 and 64 GPUs, and what binds it: reckoned from `Machine`, not measured.

    python -m tests.benchmarks.scaling            the table of vitpe/presets.md
    python -m tests.benchmarks.scaling --products 0.4 --network 12.5e9

A GPU's time is that of its matrix products, of its memory's traffic and of Muon's products, one after the other.
Traffic: what a step keeps of a batch (vitpe.training.memory_needs) is written and read forwards, and read and its
gradient written backwards, so four times; each weight's float32 numbers are read and written once. Gradients are summed
in rings of all GPUs: 2 (n - 1) / n of their bytes pass each link, in buckets, all but the last of which go on beside
the backward pass, two thirds of the model's time. Muon's matrices are shared as vitpe.training.muon does it, and what
comes out is gathered: (n - 1) times the bytes of the largest share pass each link. The host asks for a step while the
GPU does the one before: the longer of both is a step.
"""

import argparse
import math
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Final

import torch

from tests.benchmarks.gpu import operations
from vitpe.config import PRESETS, Preset
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.training.memory_needs import Needs, training_needs
from vitpe.training.muon import num_operations, shared
from vitpe.training.optimizer import is_matrix

CASES: Final = ("reference", "base")
IMAGES: Final = (64, 256)  # a GPU
GPUS: Final = (1, 8, 64)
GPUS_OF_A_NODE: Final = 8
_BUCKET_BYTES: Final = 25 << 20  # torch's DistributedDataParallel
_GRADIENT_BYTES: Final = 4
_UPDATE_BYTES: Final = 2


@dataclass(frozen=True)
class Machine:
    """An H100 SXM, as its data sheet has it, and the shares of it that are assumed to be reached."""

    peak: float = 989e12  # bfloat16 operations a second
    products: float = 0.5  # share that a step's products reach
    memory: float = 3.35e12  # bytes a second
    traffic: float = 0.8  # share of that, and of links
    link: float = 450e9  # bytes a second to the other GPUs of a node, one way
    network: float = 50e9  # bytes a second and GPU to other nodes, one way: 400 Gb/s
    latency: float = 20e-6  # s, of a collective operation within a node
    far_latency: float = 60e-6  # among nodes
    host_graph: float = 0.3e-3  # s a step, as one CUDA graph
    host_loop: float = 6.2e-3  # s a step, call by call


@dataclass(frozen=True)
class Step:
    """Seconds of one step, and bytes that are summed. exposed: of the summing, what the backward pass does not hide.
    muon_alone: Muon when each GPU does all of it.
    """

    products: float
    traffic: float
    muon: float
    muon_alone: float
    exposed: float
    host: float
    sum_bytes: float

    @property
    def gpu(self) -> float:
        return self.products + self.traffic + self.muon + self.exposed

    @property
    def seconds(self) -> float:
        return max(self.gpu, self.host)

    @property
    def binds(self) -> str:
        parts = {"products": self.products, "memory": self.traffic, "Muon": self.muon, "network": self.exposed}
        return "host" if self.host > self.gpu else max(parts, key=parts.__getitem__)


@dataclass(frozen=True)
class Work:
    """operations: of an image. matrices: shapes of Muon's. num_bytes: of all gradients."""

    operations: float
    matrices: list[tuple[int, int]]
    num_bytes: int

    @staticmethod
    @cache
    def of(preset: Preset) -> "Work":
        with torch.device("meta"):
            model = VisionTransformer(preset.model)
        matrices = [(len(p), p.shape[1]) for name, p in model.named_parameters() if is_matrix(name, p)]
        matrices.append((preset.model.embed_dim, 256))  # the patch projection, in whitened coordinates
        return Work(operations(preset), matrices, _GRADIENT_BYTES * num_parameters(model))


@cache
def _needs(preset: Preset, images: int) -> Needs:
    return training_needs(preset.model, replace(preset.train, precision="bf16"), images, "cuda")


def step(preset: Preset, images: int, gpus: int, machine: Machine, graph: bool = True) -> Step:
    """images: a GPU."""
    work = Work.of(preset)
    pace, memory = machine.peak * machine.products, machine.memory * machine.traffic
    needs = _needs(preset, images)
    products, of_batch = images * work.operations / pace, 4 * needs.activations / memory
    of_weights = 2 * (needs.weights + needs.gradients) / memory
    parts = [[work.matrices[number] for number in part] for part in shared(work.matrices, gpus)]
    costs = [sum(map(num_operations, part)) for part in parts]
    muon, exposed, sum_bytes = max(costs) / pace, 0.0, 0.0
    if gpus > 1:
        far = gpus > GPUS_OF_A_NODE
        # A ring for each of a node's GPUs goes through its own card to the next node.
        link = machine.traffic * (min(machine.link, machine.network * GPUS_OF_A_NODE) if far else machine.link)
        latency = machine.far_latency if far else machine.latency
        muon += latency + (gpus - 1) * max(sum(map(math.prod, part)) for part in parts) * _UPDATE_BYTES / link
        sum_bytes = 2 * (gpus - 1) / gpus * work.num_bytes
        num_buckets = math.ceil(work.num_bytes / _BUCKET_BYTES)
        summing = num_buckets * latency + sum_bytes / link
        exposed = max(summing / num_buckets, summing - 2 / 3 * (products + of_batch))
    host = machine.host_graph if graph else machine.host_loop
    return Step(products, of_batch + of_weights, muon, sum(costs) / pace, exposed, host, sum_bytes)


def table(machine: Machine) -> str:
    """In Markdown."""
    heads = ["preset", "images a GPU", "GPUs", "products", "memory", "Muon (each all)", "summed", "exposed"]
    heads += ["GPU", "images/s", "of ideal", "binds; without a graph"]
    lines = [heads, ["---"] * len(heads)]
    for case in CASES:
        for images in IMAGES:
            alone = step(PRESETS[case], images, 1, machine)
            for gpus in GPUS:
                found = step(PRESETS[case], images, gpus, machine)
                loop = step(PRESETS[case], images, gpus, machine, graph=False)
                times = [f"{1e3 * s:.1f}" for s in (found.products, found.traffic)]
                times.append(f"{1e3 * found.muon:.2f} ({1e3 * found.muon_alone:.2f})")
                times += [f"{found.sum_bytes / 1e6:.0f} MB", f"{1e3 * found.exposed:.2f}", f"{1e3 * found.gpu:.1f}"]
                rate, ideal = gpus * images / found.seconds, gpus * images / alone.seconds
                ends = [
                    f"{round(rate, 2 - math.floor(math.log10(rate))):,.0f}",
                    f"{rate / ideal:.0%}",
                    f"{found.binds}; {loop.binds}",
                ]
                lines.append([f"`{case}`", str(images), str(gpus), *times, *ends])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Machine):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    print(table(Machine(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
