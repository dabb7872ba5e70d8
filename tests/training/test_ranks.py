"""What several workers compute together is what one computes, and the same in each of them."""

from itertools import groupby

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers import run_python
from tests.helpers.ranks import SHAPES, do_all
from vitpe.training.muon import num_operations, orthogonalize, shared
from vitpe.training.workers import ALONE

NUM_WORKERS = 3


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    options = ("--standalone", f"--nproc-per-node={NUM_WORKERS}", "-m", "--")
    done = run_python("-m", "torch.distributed.run", *options, "tests.helpers.ranks", folder)
    assert done.code == 0, done.stderr
    return [load_file(folder / f"{rank}.safetensors") for rank in range(NUM_WORKERS)]


def test_all_workers_have_the_same_bits(ranks: list[dict[str, Tensor]]) -> None:
    for other in ranks[1:]:
        assert other.keys() == ranks[0].keys()
        assert [name for name, value in other.items() if not torch.equal(value, ranks[0][name])] == []


def test_muon_in_parts_is_that_of_one_worker(ranks: list[dict[str, Tensor]]) -> None:
    alone = do_all(ALONE)
    assert alone.keys() == ranks[0].keys()
    for name, expected in alone.items():
        torch.testing.assert_close(ranks[0][name], expected, rtol=0, atol=1e-4)  # an update is a hundredth


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
