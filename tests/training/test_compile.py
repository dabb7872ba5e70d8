"""torch.compile in training: where it fails, training goes on as if it had not been asked for."""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from tests.helpers import SMALL, run_vitpe, tiny_options, train_tiny
from vitpe.celeba import MEAN, STD
from vitpe.config import TrainConfig
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import read_tensors
from vitpe.training.compile import CompiledOrNot, choose_compile
from vitpe.training.forward import TrainForward


class Failing(torch.autograd.Function):
    """The identity, whose backward pass raises the error it was given."""

    @staticmethod
    def forward(ctx, value: Tensor, error: Exception) -> Tensor:
        ctx.error = error
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        raise ctx.error


def failing_backward(error: Exception) -> Callable[[nn.Module], Callable[..., Tensor]]:
    """A torch.compile whose forward pass works, and draws a random number, and whose backward pass fails."""

    def compiled(module: nn.Module) -> Callable[..., Tensor]:
        def run(images: Tensor, keep: Tensor | None) -> Tensor:
            torch.rand(())
            return Failing.apply(module(images, keep), error)

        return run

    return compiled


@pytest.fixture
def forward() -> TrainForward:
    torch.manual_seed(0)
    model = VisionTransformer(SMALL)
    nn.init.normal_(model.head.weight)
    return TrainForward(model, MEAN, STD, "fp32")


def gradients(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    module(images, None).square().sum().backward()
    return {name.removeprefix("plain."): value.grad for name, value in module.named_parameters()}


def test_a_backward_pass_that_does_not_compile_costs_no_step(
    forward: TrainForward, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randint(0, 256, (4, 3, *SMALL.img_size), dtype=torch.uint8)
    expected = gradients(forward, images)
    monkeypatch.setattr(torch, "compile", failing_backward(TorchDynamoException("no\n  compiler")))
    notes: list[str] = []
    tried = CompiledOrNot(forward, notes.append)
    draws = torch.get_rng_state()
    for _ in range(2):
        found = gradients(tried, images)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(torch.get_rng_state(), draws)
    assert notes == ["torch.compile failed (no compiler); going on without it"]


@pytest.mark.parametrize(
    ("operations", "device", "asked", "expected"),
    [
        (2e10, "cuda", "auto", False),
        (2e12, "cuda", "auto", True),
        (2e12, "cpu", "auto", False),
        (2e10, "cpu", "on", True),
        (2e12, "cuda", "off", False),
    ],
)
def test_what_is_worth_compiling(operations: float, device: str, asked: str, expected: bool) -> None:
    assert choose_compile(TrainConfig(compile=asked), torch.device(device), operations) == expected


def test_other_errors_are_not_hidden(forward: TrainForward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", failing_backward(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError, match="ours"):
        CompiledOrNot(forward, print)(torch.zeros(4, 3, *SMALL.img_size, dtype=torch.uint8), None)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_a_compiled_run_learns_as_a_plain_one(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """And so do its patches left out, whose positions' gradient is a sum in one order."""
    for folder in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(folder, str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values = {"train__steps": 3, "train__num_evals": 1, "train__patch_keep": 0.5, "train__muon_lr": None}
    compiled = train_tiny(celeba, tmp_path / "compiled", train__compile="on", **values)
    plain = train_tiny(celeba, tmp_path / "plain", **values)
    assert [note for note in compiled.notes if "compil" in note] == ["compiling the model: a minute or two"]
    for step, loss in plain.losses.items():
        assert compiled.losses[step] == pytest.approx(loss, abs=1e-4)
    written = [path.read_text() for path in (tmp_path / "cache").rglob("*.cpp")]
    assert written
    assert not any("atomic_add" in text for text in written)


def test_without_a_compiler_the_run_is_the_same(celeba: Path, tmp_path: Path) -> None:
    runs = []
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    folders = {"HOME": str(tmp_path), "XDG_CACHE_HOME": "", "TORCHINDUCTOR_CACHE_DIR": "", "TMPDIR": str(temporary)}
    for asked in ("off", "on"):
        runs.append(tmp_path / asked)
        options = tiny_options(celeba, train__compile=asked)
        done = run_vitpe("train", *options, "--run", runs[-1], CXX="/nonexistent", **folders)
        assert done.code == 0, done.stderr
        assert ("torch.compile failed" in done.stderr) == (asked == "on")
    assert (tmp_path / ".cache" / "vitpe").is_dir(), done.stderr
    assert not list(temporary.glob("torchinductor*"))  # a name that anybody can guess, and lay pickles there
    off, on = (read_tensors(run / "best.safetensors") for run in runs)
    assert off.keys() == on.keys()
    assert all(torch.equal(off[name], on[name]) for name in off)


def test_a_run_compiled_in_parts_learns_as_a_plain_one(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 3, 3 and 2 images: of the graphs that a compiler is given; they run uncompiled."""
    for folder in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(folder, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values: dict[str, Any] = {"train__steps": 3, "train__num_evals": 1, "train__patch_keep": 0.5}
    values |= {"model__drop_path_rate": 0.2, "model__depth": 2, "train__muon_lr": None}
    plain = train_tiny(celeba, tmp_path / "plain", **values)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = train_tiny(celeba, tmp_path / "compiled", train__compile="on", train__micro_batch_size=3, **values)
    assert [note for note in compiled.notes if "compil" in note] == ["compiling the model: a minute or two"]
    for step, loss in plain.losses.items():
        assert compiled.losses[step] == pytest.approx(loss, abs=1e-4)
