"""What several workers compute together is what one computes, and the same in each of them."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from threading import Barrier, local
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers import run_python
from tests.helpers.ranks import NUM_DECODED, NUM_SCORED, SHAPES, do_all
from vitpe.training.muon import num_operations, orthogonalize, shared
from vitpe.training.scoring import parts
from vitpe.training.workers import ALONE, Meetings

NUM_WORKERS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests.helpers.ranks has written."""
    folder = tmp_path_factory.mktemp("ranks")
    options = ("--standalone", f"--nproc-per-node={NUM_WORKERS}", "-m", "--")
    done = run_python("-m", "torch.distributed.run", *options, "tests.helpers.ranks", folder)
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{rank}.safetensors") for rank in range(NUM_WORKERS)]


def test_all_workers_have_the_same_bits(ranks: list[dict[str, Tensor]]) -> None:
    for other in ranks[1:]:
        assert other.keys() == ranks[0].keys()
        assert [name for name, value in other.items() if not torch.equal(value, ranks[0][name])] == []


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return do_all(ALONE)


def test_muon_in_parts_is_that_of_one_worker(ranks: list[dict[str, Tensor]], alone: dict[str, Tensor]) -> None:
    assert alone.keys() == ranks[0].keys()
    for name, expected in alone.items():
        if name.partition(":")[0] in ("many", "few", "plain momentum"):
            torch.testing.assert_close(ranks[0][name], expected, rtol=0, atol=1e-4)  # an update is a hundredth


def test_answers_of_all_workers_are_those_of_one_bit_for_bit(
    ranks: list[dict[str, Tensor]], alone: dict[str, Tensor]
) -> None:
    assert len(alone["scores: logits"]) == NUM_SCORED
    assert alone["scores: logits"].std() > 0.1
    for name in ("scores: logits", "scores: labels", "few scores: logits", "few scores: labels"):
        assert torch.equal(ranks[0][name], alone[name]), name


def test_workers_decode_each_image_once(ranks: list[dict[str, Tensor]], alone: dict[str, Tensor]) -> None:
    for what in ("decoded", "decoded where it fits"):
        for have in (alone, *ranks):
            assert have[f"{what}: number"] == NUM_DECODED
            assert torch.equal(have[f"{what}: images"], alone["decoded: images"])
            assert torch.equal(have[f"{what}: labels"], alone["decoded: labels"])
    for rank in ranks:
        assert torch.equal(rank["few decoded: images"], alone["few decoded: images"])


@given(st.integers(1, 3000), st.integers(1, 200), st.integers(1, 70))
def test_images_to_score_are_parted_into_whole_batches(num_images: int, batch_size: int, world_size: int) -> None:
    found = parts(num_images, batch_size, world_size)
    assert [number for part in found for number in part] == list(range(num_images))
    assert all(part.start % batch_size == 0 for part in found if part)
    num_batches = [-(-len(part) // batch_size) for part in found]
    assert max(num_batches) - min(num_batches) <= 1
    assert num_batches[0] == max(num_batches)


def test_what_any_worker_notes_is_told_once(folder: Path) -> None:
    lines = ["all", *(f"of {rank}, line {n}\nétc. \udc80" for rank in range(NUM_WORKERS) for n in range(rank))]
    for rank in range(NUM_WORKERS):
        with safe_open(folder / f"{rank}.safetensors", "pt") as file:
            assert json.loads(file.metadata()["lines"]) == lines
    assert ALONE.all_lines(["one", "two", "one"]) == ["one", "two"]


def test_matrices_are_shared_by_what_they_cost() -> None:
    base = [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12
    for world_size in (1, 2, 3, 8, 64):
        parts = shared(base, world_size)
        assert sorted(number for part in parts for number in part) == list(range(len(base)))
        costs = [sum(num_operations(base[number]) for number in part) for part in parts]
        bound = max(sum(costs) / world_size, num_operations((3072, 768)))
        assert max(costs) <= bound * 4 / 3
        for part in parts:  # so that those of one shape go through the products together
            runs = [shape for shape, _ in groupby(base[number] for number in part)]
            assert len(runs) == len({*runs})


@pytest.mark.parametrize("shape", [*{*SHAPES}])
def test_operations_are_those_that_torch_counts(shape: tuple[int, int]) -> None:
    with FlopCounterMode(display=False) as counter:
        orthogonalize(torch.randn(1, *shape), (3.4445, -4.7750, 2.0315), 5, 1e-7)
    assert counter.get_total_flops() == num_operations(shape)


@dataclass
class Lockstep:
    """In the place of Workers: two that wait for each other, each in a thread of its own."""

    barrier: Barrier
    given: list[tuple[int, ...]]
    world_size: int = 2

    def all_max(self, *values: int) -> list[int]:
        self.given.append(values)
        self.barrier.wait()
        highest = [max(both) for both in zip(*self.given[-2:], strict=True)]
        self.barrier.wait()
        return highest


def meetings_of(seconds_per_step: list[float], num_steps: int, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """After which steps each of two workers asks, whose steps take so long."""
    now = local()
    monkeypatch.setattr("vitpe.training.workers.time", SimpleNamespace(monotonic=lambda: now.seconds))
    workers: Any = Lockstep(Barrier(2, timeout=20), [])

    def work(rank: int) -> list[int]:
        now.seconds, met = 100.0 * rank, []
        meetings = Meetings(workers)
        for step in range(1000, 1000 + num_steps):  # as a resumed run begins
            now.seconds += seconds_per_step[rank]
            if meetings.due(step):
                assert meetings.all_max(step, rank, step) == [1, step]
                met.append(step)
        return met

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, range(2)))


@pytest.mark.parametrize(("slowest", "apart"), [(3.0, 1), (0.2, 2), (0.0101, 49), (0.0001, 64)])
def test_workers_ask_after_the_same_steps_twice_a_second(
    slowest: float, apart: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = meetings_of([slowest / 3, slowest], 200, monkeypatch)
    assert first == second
    assert {later - earlier for earlier, later in pairwise(first[2:])} == {apart}


def test_one_worker_asks_after_each_step() -> None:
    meetings = Meetings(ALONE)
    assert [meetings.all_max(step, 7) for step in range(9) if meetings.due(step)] == [[7]] * 9
