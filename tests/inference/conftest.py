"""Fixtures about predictions."""

from pathlib import Path

import pytest


@pytest.fixture
def images(celeba: Path) -> Path:
    return celeba / "img_align_celeba"
