"""Muon for the weight matrices of blocks, stem and query pool, AdamW for everything else, one schedule for both."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from vitpe.config import TrainConfig
from vitpe.model.vit import VisionTransformer
from vitpe.training.muon import BatchedMuon
from vitpe.training.whitening import WhitenedUpdates, Whitening
from vitpe.training.workers import ALONE, Workers

ADAMW_BETAS = (0.9, 0.999)
_ALIGNMENT: Final = 64


@dataclass(frozen=True)
class Optimizers:
    """The optimizers of a run, stepped together; `peaks` are their learning rates before the schedule's factor.

    rates: the learning rates, in tensors that a captured step reads anew each time.
    whitened: how the patch projection is updated, None for like any other weight.
    """

    members: tuple[Optimizer, ...]
    peaks: tuple[float, ...]
    rates: tuple[Tensor, ...]
    whitened: WhitenedUpdates | None = None

    def __post_init__(self) -> None:
        self._share_rates()

    def _share_rates(self) -> None:
        for member, rate in zip(self.members, self.rates, strict=True):
            for group in member.param_groups:
                group["lr"] = rate

    def set_rates(self, factor: float) -> None:
        """From now on learn at `factor` times the peaks."""
        for rate, peak in zip(self.rates, self.peaks, strict=True):
            rate.fill_(peak * factor)

    def step(self) -> None:
        """One update; clears the gradients."""
        if self.whitened is not None:
            self.whitened.begin()
        for optimizer in self.members:
            optimizer.step()
        self.zero_grad()
        if self.whitened is not None:
            self.whitened.end()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self.members:
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """All state as named tensors: "MEMBER.PARAMETER.NAME"."""
        return {
            f"{m}.{p}.{name}": value
            for m, optimizer in enumerate(self.members)
            for p, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def expected_state(self) -> dict[str, Tensor]:
        """The keys, shapes and types that `state_tensors` gives after the first update; values mean nothing."""
        expected: dict[str, Tensor] = {}
        for m, optimizer in enumerate(self.members):
            names = ("momentum_buffer",) if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for p, parameter in enumerate(parameters):
                expected |= {f"{m}.{p}.{n}": torch.zeros(()) if n == "step" else parameter.detach() for n in names}
        return expected

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state_tensors` gave."""
        for m, optimizer in enumerate(self.members):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                member, parameter, name = key.split(".")
                if int(member) == m:
                    state.setdefault(int(parameter), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self._share_rates()  # loading has put copies in the place of the rates


def make_optimizers(
    model: VisionTransformer, config: TrainConfig, whitening: Whitening | None = None, workers: Workers = ALONE
) -> Optimizers:
    """Muon on the two-dimensional weights inside `blocks` and `stem` and on the query pool's keys and values, the maps
    between features that it is made for (Jordan et al. 2024, kellerjordan.github.io/posts/muon), and on the patch
    projection where `whitening` makes its inputs such features; AdamW (arXiv:1711.05101) on the rest, and on all
    without muon_lr. Weight decay: of what is Muon's. workers: among whom Muon's work is shared.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    whitened = None
    if whitening is not None:
        whitened = WhitenedUpdates(model.patch_embed.proj, whitening)
        trained["patch_embed.proj.weight"] = whitened.change  # of two dimensions, for Muon
    matrices = [parameter for name, parameter in trained.items() if is_matrix(name, parameter)]
    rest = [{"params": [p for name, p in trained.items() if not is_matrix(name, p)], "weight_decay": 0.0}]
    if config.muon_lr is None:
        rest.append({"params": matrices, "weight_decay": config.weight_decay})
    device = model.cls_token.device
    on_cpu = device.type == "cpu"
    peaks = (config.adamw_lr,) if config.muon_lr is None else (config.muon_lr, config.adamw_lr)
    # A GPU's kernels take float32. A CPU's take a number, which float32 would round.
    rates = tuple(torch.tensor(peak, dtype=torch.float64 if on_cpu else torch.float32, device=device) for peak in peaks)
    adamw = AdamW(rest, lr=config.adamw_lr, betas=ADAMW_BETAS, fused=True, capturable=device.type == "cuda")
    if config.muon_lr is None:
        return Optimizers((adamw,), peaks, rates, whitened)
    kind = Muon if on_cpu and workers.world_size == 1 else partial(BatchedMuon, workers=workers)
    muon = kind(matrices, lr=config.muon_lr, weight_decay=config.weight_decay)
    return Optimizers((muon, adamw), peaks, rates, whitened)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon may update it."""
    maps = ("blocks.", "patch_embed.", "stem.", "query_pool.key.", "query_pool.value.")
    return name.startswith(maps) and parameter.ndim == 2


def learning_rate_factor(step: int, num_steps: int, warmup_fraction: float) -> float:
    """In (0, 1], for the update at `step` (0-based) of `num_steps`: linear up over the warm-up, then linear to zero."""
    warmup_steps = max(1, round(warmup_fraction * num_steps))
    rising = (step + 1) / warmup_steps
    falling = (num_steps - step) / max(1, num_steps - warmup_steps)
    return min(rising, falling, 1.0)


class ExponentialMovingAverage:
    """Exponential moving average of the weights (Polyak & Juditsky 1992), with the short memory of a young run:
    the decay at step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage.

    tensors: the averages by the weights' names. They and the weights are made parts of two long tensors, so that an
    update is one operation, whose decay may come from a tensor.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = lay_out(dict(model.named_parameters()))
        self._averages = self._weights.clone()
        self._share = self._weights.new_zeros(())
        state, places = model.state_dict(), _places(dict(model.named_parameters()))
        assert state.keys() == places.keys(), "a state that is no parameter would not be averaged"
        self.tensors = {name: self._averages[places[name]].view_as(value) for name, value in state.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up averages that were saved."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])

    def set_step(self, step: int) -> None:
        """The next is the update at `step` (0-based)."""
        self._share.fill_(1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model's weights."""
        self._averages.lerp_(self._weights, self._share)


def lay_out(parameters: dict[str, nn.Parameter]) -> Tensor:
    """Move the parameters into one long tensor, which is given back; they stay what they are, as parts of it."""
    places = _places(parameters)
    first = next(iter(parameters.values()))
    whole = torch.zeros(max(place.stop for place in places.values()), dtype=first.dtype, device=first.device)
    for name, parameter in parameters.items():
        part = whole[places[name]].view_as(parameter)
        part.copy_(parameter.detach())
        parameter.data = part
    return whole


def _places(tensors: Mapping[str, Tensor]) -> dict[str, slice]:
    """Where each lies in one long tensor, on a boundary of 256 bytes of float32, as tensors of their own do."""
    places, end = {}, 0
    for name, tensor in tensors.items():
        places[name] = slice(end, end + tensor.numel())
        end += -(-tensor.numel() // _ALIGNMENT) * _ALIGNMENT
    return places
