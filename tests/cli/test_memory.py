"""Too little memory, wherever it is missed, is an error in two lines."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.in_process import call_vitpe
from vitpe.cli.memory import enough_memory
from vitpe.errors import VitpeError
from vitpe.inference import evaluate as run

GPU_MESSAGE = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.20 GiB of which 3 MiB is"
)


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("miss", "message"),
    [
        (lambda: torch.empty(1 << 50), "this machine has too little memory for 4503599627370496 bytes more"),
        (lambda: np.empty(1 << 50), "this machine has too little memory for 8.00 PiB more"),
        (failing(MemoryError()), "this machine has too little memory for this"),
        (failing(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))), "this machine has too little memory for this"),
        (failing(torch.OutOfMemoryError(GPU_MESSAGE)), "the GPU has too little memory for 20.00 MiB more"),
        (
            failing(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
            "the GPU has too little memory for this",
        ),
    ],
)
def test_what_was_wanted_is_said(miss: Callable[[], object], message: str) -> None:
    with pytest.raises(VitpeError) as caught, enough_memory("eval"):
        miss()
    assert caught.value.message == message
    assert ("--device cpu" in caught.value.hint) == ("GPU" in message)


@pytest.mark.parametrize("error", [RuntimeError("shapes"), OSError(errno.ENOSPC, "full"), ValueError("memory")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, enough_memory("train"):
        failing(error)()
    assert caught.value is error


def test_a_command_ends_with_two_lines(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "evaluate", lambda *_: torch.empty(1 << 50))
    called = call_vitpe("eval", trained_run)
    assert called.code == 1
    assert [line.split(":")[0] for line in called.stderr.splitlines()] == ["error", "hint"]
