"""Which kernel of attention is chosen and used. What they compute and how fast they are, only a GPU tells."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend

from vitpe.training import attention

CPU = torch.device("cpu")
SHAPE = (8, 73, 2, 64)


class Clock:
    """Stands in for CUDA's events: time passes only while a kernel runs."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = Clock.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: "Clock") -> float:
        return later.at - self.at


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float | Exception]], None]:
    """Sets what each kernel takes, in milliseconds, or raises."""
    costs: dict[str, float | Exception] = {}
    allowed: list[list[SDPBackend]] = []
    numbers = {kernel: name for name, kernel in attention._KERNELS.items()}

    class Allow:
        def __init__(self, kernel: SDPBackend, set_priority: bool = False) -> None:
            self._kernels = kernel if isinstance(kernel, list) else [kernel]

        def __enter__(self) -> None:
            allowed.append(self._kernels)

        def __exit__(self, *_: object) -> None:
            allowed.pop()

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        cost = costs[numbers[allowed[-1][0]]]
        if isinstance(cost, Exception):
            raise cost
        Clock.now += cost
        return q + k + v

    monkeypatch.setattr(torch.cuda, "Event", Clock)
    monkeypatch.setattr(torch, "randn", lambda shape, device: torch.zeros(shape))
    monkeypatch.setattr(attention, "sdpa_kernel", Allow)
    monkeypatch.setattr(attention, "attend", attend)
    return costs.update


def choose() -> str:
    return attention.fastest_attention(*SHAPE, torch.bfloat16, SimpleNamespace(type="cuda"))  # type: ignore[arg-type]


@pytest.mark.parametrize("fastest", ["flash", "cuDNN", "memory-efficient"])
def test_the_fastest_is_chosen(kernels, fastest: str) -> None:
    kernels({name: 1.0 if name == fastest else 2.0 for name in attention.KERNELS[1:]})
    assert choose() == fastest


def test_a_kernel_that_does_not_take_the_heads_is_left_out(kernels) -> None:
    kernels({"flash": RuntimeError("No available kernel"), "cuDNN": 3.0, "memory-efficient": 2.0})
    assert choose() == "memory-efficient"


def test_none_that_can_is_no_error(kernels) -> None:
    kernels(dict.fromkeys(attention.KERNELS[1:], RuntimeError("No available kernel")))
    assert choose() == ""


def test_too_little_memory_is_not_taken_for_a_kernel_that_cannot(kernels) -> None:
    kernels(dict.fromkeys(attention.KERNELS[1:], torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        choose()


def test_what_the_user_has_turned_off_is_not_tried(kernels) -> None:
    kernels({"flash": 1.0, "cuDNN": 2.0, "memory-efficient": 3.0})
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        assert choose() == "cuDNN"
    finally:
        torch.backends.cuda.enable_flash_sdp(True)


def test_on_a_cpu_there_is_none_to_choose() -> None:
    assert attention.fastest_attention(*SHAPE, torch.float32, CPU) == ""


@pytest.mark.parametrize("name", attention.KERNELS)
def test_preferring_one_changes_nothing_that_is_computed_and_leaves_no_trace(name: str) -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    switches = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "cudnn_sdp_enabled", "math_sdp_enabled")
    before = [getattr(torch.backends.cuda, switch)() for switch in switches]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    with attention.preferring(name):
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.equal(found, expected)
    assert [getattr(torch.backends.cuda, switch)() for switch in switches] == before
