"""Fixtures that several test files use; functions and constants stand in helpers.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import train_tiny, write_celeba


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
