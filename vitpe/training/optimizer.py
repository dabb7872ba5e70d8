"""Muon for the weight matrices of blocks, stem and query pool, AdamW for everything else, one schedule for both."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from vitpe.config import TrainConfig
from vitpe.model.vit import VisionTransformer
from vitpe.training.muon import BatchedMuon
from vitpe.training.whitening import WhitenedUpdates, Whitening

ADAMW_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Optimizers:
    """The optimizers of a run, stepped together; `peaks` are their learning rates before the schedule's factor.

    whitened: how the patch projection is updated, None for like any other weight.
    """

    members: tuple[Optimizer, ...]
    peaks: tuple[float, ...]
    whitened: WhitenedUpdates | None = None

    def step(self, factor: float) -> None:
        """One update at `factor` times the peak learning rates; clears the gradients."""
        if self.whitened is not None:
            self.whitened.begin()
        for optimizer, peak in zip(self.members, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.whitened is not None:
            self.whitened.end()

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


def make_optimizers(model: VisionTransformer, config: TrainConfig, whitening: Whitening | None = None) -> Optimizers:
    """Muon on the two-dimensional weights inside `blocks` and `stem` and on the query pool's keys and values, the maps
    between features that it is made for (Jordan et al. 2024, kellerjordan.github.io/posts/muon), and on the patch
    projection where `whitening` makes its inputs such features; AdamW (arXiv:1711.05101) on the rest, and on all
    without muon_lr. Weight decay: of what is Muon's.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    whitened = None
    if whitening is not None:
        whitened = WhitenedUpdates(model.patch_embed.proj, whitening)
        trained["patch_embed.proj.weight"] = whitened.change  # of two dimensions, for Muon
    matrices = [parameter for name, parameter in trained.items() if _is_matrix(name, parameter)]
    rest = [{"params": [p for name, p in trained.items() if not _is_matrix(name, p)], "weight_decay": 0.0}]
    if config.muon_lr is None:
        rest.append({"params": matrices, "weight_decay": config.weight_decay})
    adamw = AdamW(rest, lr=config.adamw_lr, betas=ADAMW_BETAS, fused=True)
    if config.muon_lr is None:
        return Optimizers((adamw,), (config.adamw_lr,), whitened)
    kind = BatchedMuon if any(matrix.is_cuda for matrix in matrices) else Muon
    muon = kind(matrices, lr=config.muon_lr, weight_decay=config.weight_decay)
    return Optimizers((muon, adamw), (config.muon_lr, config.adamw_lr), whitened)


def _is_matrix(name: str, parameter: Tensor) -> bool:
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
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model.state_dict()  # kept: collecting it at each step would take half a millisecond
        self.tensors = {name: value.clone() for name, value in self._model.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights after the update at `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [self._model[name] for name in self.tensors], 1 - decay)
