"""Fixtures that several test files use; functions and constants stand in tests.helpers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import train_tiny, write_celeba
from tests.helpers.answers import NAMES, answers
from tests.helpers.in_process import Called, call_vitpe
from vitpe.metrics.scores import Scores, score


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tests run side by side; tiny tensors gain nothing from threads, and sums stay in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in CelebA's layout with 24 + 8 + 8 learnable images; to be read only."""
    return write_celeba(tmp_path_factory.mktemp("celeba"))


@pytest.fixture(scope="session")
def trained_run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run on `celeba`; to be read only."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    train_tiny(celeba, folder)
    return folder


@pytest.fixture
def predicted(trained_run: Path):
    """`vitpe predict` with the tiny run's checkpoint."""

    def call(*arguments: str | Path, **more) -> Called:
        return call_vitpe("predict", "--checkpoint", trained_run, *arguments, **more)

    return call


@pytest.fixture(scope="session")
def scores() -> Scores:
    """Of `answers`."""
    return score(*answers(), NAMES, num_resamples=100)
