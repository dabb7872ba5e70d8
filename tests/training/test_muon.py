"""Muon in batches is torch's Muon: the same updates from the same state, whichever of the two took the last step."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import Muon

from vitpe.training.muon import BatchedMuon

SHAPES = [(48, 16), (48, 16), (16, 16), (64, 16), (16, 64), (16, 64)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def parameters(device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(device)) for shape in SHAPES]


def give_gradients(seed: int, *models: list[nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(seed)
    for number, shape in enumerate(SHAPES):
        gradient = torch.randn(shape, generator=generator)
        for model in models:
            model[number].grad = gradient.to(model[number].device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("nesterov", [True, False])
def test_the_updates_are_those_of_torch(nesterov: bool, device: str) -> None:
    options = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov}
    ours, theirs = parameters(device), parameters(device)
    batched, oracle = BatchedMuon(ours, **options), Muon(theirs, **options)
    for seed in range(5):
        before = [parameter.detach().clone() for parameter in ours]
        give_gradients(seed, ours, theirs)
        batched.step()
        oracle.step()
        for old, mine, expected in zip(before, ours, theirs, strict=True):
            assert (
                mine - old
            ).abs().max() > 1e-3  # an update is a hundredth at its largest entries, or the test is void
            torch.testing.assert_close(mine, expected, rtol=0, atol=2e-4)
            torch.testing.assert_close(batched.state[mine], oracle.state[expected])


def test_the_state_goes_from_one_to_the_other() -> None:
    """A run that began on a GPU can go on without one, and the other way round."""
    ours, theirs = parameters(), parameters()
    batched, oracle = BatchedMuon(ours, lr=0.02), Muon(theirs, lr=0.02)
    give_gradients(0, ours, theirs)
    batched.step()
    oracle.step()
    for one, other in ((batched, oracle), (oracle, batched)):
        one.load_state_dict(deepcopy(other.state_dict()))
        give_gradients(1, ours, theirs)
        batched.step()
        oracle.step()
        for mine, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=2e-4)


def test_a_parameter_without_a_gradient_stays() -> None:
    ours = parameters()
    batched = BatchedMuon(ours, lr=0.02)
    give_gradients(0, ours)
    ours[1].grad = None
    before = ours[1].detach().clone()
    batched.step()
    assert torch.equal(ours[1], before)
    assert ours[1] not in batched.state


def test_a_closure_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        BatchedMuon(parameters(), lr=0.02).step(lambda: 0.0)
