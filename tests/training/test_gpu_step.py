"""The training step of every preset on a GPU, operation by operation, where there is none.

Tensors are fake ones (torch._subclasses.fake_tensor) that claim to lie on cuda:0: shapes, types and devices are
computed, numbers are not. What runs is the project's own code: cropping, `TrainStep` (patches, forward in
bfloat16, loss, backward, Muon, AdamW, averaged weights), scoring. A test fails when

- an operation takes tensors of two devices,
- a step reads a number back (item, bool, nonzero, cpu, numpy, synchronize), or sends one to the GPU,
- something else comes out than CUDA would give: bfloat16 products, float32 gradients on the GPU, BatchedMuon,
- a gradient is added up in an order that changes from run to run.

The whole command is run in tests/noop_gpu, which sees no devices mixed and no numbers read where copies cost nothing.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.autograd.function import BackwardCFunction
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from vitpe.celeba import MEAN, STD
from vitpe.config import PRESETS, DataConfig, RunConfig
from vitpe.data.batch import Batch, DecodedImages
from vitpe.model.inputs import PixelClassifier, classify
from vitpe.model.vit import VisionTransformer
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import CheckpointInfo
from vitpe.training import optimizer as optimizer_module
from vitpe.training.compile import CompiledOrNot
from vitpe.training.forward import TrainForward
from vitpe.training.loop import Plan, RunContext, Trainer
from vitpe.training.muon import BatchedMuon
from vitpe.training.optimizer import ExponentialMovingAverage
from vitpe.training.step import TrainStep
from vitpe.training.whitening import Whitening
from vitpe.training.workers import Workers

CUDA = torch.device("cuda", 0)
NUM_IMAGES = 162_770  # CelebA's training split, decoded on the GPU: 19 GB, of which nothing is allocated
STORED = (218, 178)
# What fake tensors cannot do is what would make a GPU wait; what they refuse is a mixture of devices.
FAULTS = (RuntimeError, DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


class HostTraffic(RuntimeError):
    """A step moved data between the CPU and the GPU, or waited."""


class NoGpu(FakeTensorMode):
    avoid_device_init = True  # also while torch.cuda.is_available() says yes, as below


class Watch(TorchDispatchMode):
    """Counts operations, and refuses those that have tensors on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.strict = False  # set for a step: before it, weights and images may be sent
        self.counts: Counter[str] = Counter()
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kinds = {value.device.type for value in tree_iter((args, kwargs, out)) if isinstance(value, Tensor)}
        name = str(func)
        if self.strict and kinds == {"cpu", "cuda"} and not _number_as_argument(func, args, kwargs, out):
            raise HostTraffic(f"{name} between CPU and GPU")
        self.counts[name] += 1
        self.dtypes.setdefault(name, set()).update(v.dtype for v in tree_iter(out) if isinstance(v, Tensor))
        return out


def _number_as_argument(func: Any, args: Any, kwargs: Any, out: Any) -> bool:
    """A CPU tensor of no dimensions beside GPU tensors travels as a kernel's argument, but for copies."""
    if func._schema.name in ("aten::_to_copy", "aten::copy_", "aten::_copy_from"):
        return False
    return all(v.ndim == 0 for v in tree_iter((args, kwargs)) if isinstance(v, Tensor) and v.device.type == "cpu")


@contextmanager
def no_gpu() -> Iterator[Watch]:
    """Within, cuda:0 is there, of fake tensors; leaves a count of what was done."""

    def wait(*_: object) -> None:
        raise HostTraffic("synchronize")

    class Generator:
        def manual_seed(self, seed: int) -> None:
            assert 0 <= seed < 1 << 64

    with ExitStack() as stack:
        for name, value in {
            "torch.cuda.is_available": lambda: True,
            "torch.cuda.is_bf16_supported": lambda including_emulation=True: True,
            "torch.cuda.is_current_stream_capturing": lambda: False,
            "torch.cuda.synchronize": wait,
            "torch.cuda.default_generators": (Generator(),),
            "torch.Tensor.backward": backward,
            "torch._fused_adamw_": fused_adamw,
            "vitpe.model.vit.scaled_dot_product_attention": attention,
        }.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(NoGpu())
        yield stack.enter_context(Watch())


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The kernel that torch takes on a GPU; which one that is it asks the driver."""
    if q.dtype == torch.float32:
        return scaled_dot_product_attention(q, k, v)
    assert {q.dtype, k.dtype, v.dtype} == {torch.bfloat16}
    assert q.shape[-1] % 8 == 0
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return out


def fused_adamw(*tensors: Any, lr: Tensor, **values: Any) -> None:
    """With the learning rate in a tensor, of which fake tensors know nothing."""
    assert (lr.device, lr.dtype, lr.ndim) == (CUDA, torch.float32, 0)
    torch.ops.aten._fused_adamw_.default(*tensors, lr=0.0, **values)


def backward(loss: Tensor) -> None:
    """Tensor.backward in Python: torch's own engine asks the driver for the streams of every GPU."""
    start = loss.grad_fn
    assert start is not None
    waits: Counter[Any] = Counter()
    todo, seen = [start], {start}
    while todo:
        for following, _ in todo.pop().next_functions:
            if following is not None:
                waits[following] += 1
                if following not in seen:
                    seen.add(following)
                    todo.append(following)
    incoming: dict[Any, dict[int, Tensor]] = {start: {0: torch.ones_like(loss)}}
    ready = [start]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given = incoming.pop(node, {})
            if hasattr(node, "variable"):  # a leaf
                if given:
                    old = node.variable.grad
                    node.variable.grad = given[0] if old is None else old + given[0]
                continue
            call = node.apply if isinstance(node, BackwardCFunction) else node
            out = call(*[given.get(i) for i in range(len(node._input_metadata))]) if given else ()
            out = out if isinstance(out, tuple) else (out,)
            for number, (following, slot) in enumerate(node.next_functions):
                if following is None:
                    continue
                gradient = out[number] if number < len(out) else None
                if gradient is not None:
                    meta = following._input_metadata[slot]
                    if gradient.device != meta.device:
                        raise RuntimeError(f"a gradient on {gradient.device} of a tensor on {meta.device}")
                    gradient = gradient.sum_to_size(meta.shape).to(meta.dtype)
                    slots = incoming.setdefault(following, {})
                    slots[slot] = slots[slot] + gradient if slot in slots else gradient
                waits[following] -= 1
                if not waits[following]:
                    ready.append(following)


def on_gpu(model: nn.Module) -> None:
    """Fake weights on the GPU in place of a model's own."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device=CUDA)
                module._parameters[name] = nn.Parameter(fake, requires_grad=value.requires_grad)
    model.to = lambda *_: model  # type: ignore[method-assign,assignment]


def configuration(name: str, **values: Any) -> RunConfig:
    """The preset with two blocks: the others do what these do."""
    chosen = PRESETS[name]
    train = replace(chosen.train, epochs=1, compile="off", cuda_graph=False, **values)
    return RunConfig(name, replace(chosen.model, depth=2), DataConfig(), train)


class Run:
    """A preset's trainer and its images on the fake GPU."""

    def __init__(self, config: RunConfig, model: VisionTransformer) -> None:
        info = CheckpointInfo(
            config.model, tuple(map(str, range(40))), MEAN, STD, (0.5,) * 40, STORED, 0, 0, 0, "celeba"
        )
        self.config, self.model = config, model
        self.plan = Plan.of(config.train, NUM_IMAGES)
        on_gpu(model)
        folder = RunFolder(Path(tempfile.gettempdir()) / "none")
        context = RunContext(folder, CUDA, Workers(), mock.Mock())
        self.trainer = Trainer(config.train, model, info, self.plan, context, "")
        if config.train.whiten:
            num_values = model.patch_embed.proj.weight[0].numel()
            self.trainer._whitening = Whitening(
                **{k: torch.empty(v.shape, device=CUDA) for k, v in Whitening.expected(num_values).items()}
            )
        self.update = self.trainer._make_step(self.trainer._forward(), np.linspace(0, 1, 40))
        self.decoded = torch.empty(
            (NUM_IMAGES, 3, *STORED), dtype=torch.uint8, memory_format=torch.channels_last, device=CUDA
        )
        self.labels = torch.empty((NUM_IMAGES, 40), dtype=torch.uint8, device=CUDA)

    def batch(self) -> Batch:
        """Of images that are decoded on the GPU."""
        b, n = self.plan.batch_size, self.config.model.num_patches
        sent = {"places": torch.empty((4, b), dtype=torch.int64, device=CUDA)}
        sent["depth"] = torch.empty((b, 2 * self.config.model.depth), device=CUDA)
        if self.config.train.patch_keep < 1:
            kept = round(self.config.train.patch_keep * n)
            sent["keep"] = torch.empty((b, kept), dtype=torch.int64, device=CUDA)
        return Batch(sent, DecodedImages(self.decoded, self.labels, self.config.model.img_size))

    def step(self) -> None:
        self.update(self.batch(), 0, 0.5)


@pytest.fixture(autouse=True)
def _no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's first weights are not looked at; to draw those of all presets would take ten seconds."""
    for name in ("trunc_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, **_: tensor)


def one_step(name: str, steps: int = 2, **values: Any) -> tuple[Run, Watch]:
    """The first step, in which optimizers make their state, and one that is like all others."""
    config = configuration(name, **values)
    model = VisionTransformer(config.model)  # with real numbers: some of them are read
    with no_gpu() as watch:
        run = Run(config, model)
        watch.strict = True
        for _ in range(steps):
            watch.counts.clear()
            run.step()
    return run, watch


@pytest.mark.parametrize(("name", "patch_keep"), [*((name, 0.5) for name in PRESETS), ("tiny", 1.0), ("laptop", 1.0)])
def test_a_step(name: str, patch_keep: float) -> None:
    run, watch = one_step(name, patch_keep=patch_keep)
    products = {"aten.mm.default", "aten.addmm.default", "aten.convolution.default"} & watch.counts.keys()
    assert "aten.addmm.default" in products
    assert all(torch.bfloat16 in watch.dtypes[product] for product in products - {"aten.mm.default"})
    attended = [count for op, count in watch.counts.items() if "flash_attention" in op]
    assert attended == 2 * [run.config.model.depth]  # forward and backward
    # So is what goes from block to block: autocast would leave it, and all that a norm gives, in float32.
    assert torch.bfloat16 in watch.dtypes["aten.native_layer_norm.default"]
    assert "aten._fused_adamw_.default" in watch.counts
    assert not [op for op in watch.counts if "index_put" in op or "scatter_add" in op or "index_add" in op]
    muon = run.trainer._optimizers.members[0]
    assert isinstance(muon, BatchedMuon)
    for value in (*run.model.parameters(), *run.trainer._average.tensors.values(), run.trainer._loss_sum):
        assert value.device == CUDA
        assert value.dtype == torch.float32
    for value in run.trainer._optimizers.state_tensors().values():
        assert value.device == CUDA


@pytest.mark.parametrize(
    "values",
    [
        {"muon_lr": None},
        {"whiten": False},
        {"ema_decay": 0.0},
        {"precision": "fp32"},
        {"loss": "focal"},
        {"loss": "asymmetric", "pos_weight": "auto"},
        {"pos_weight": "auto"},
    ],
)
def test_other_recipes(values: dict[str, Any]) -> None:
    if "ema_decay" in values:
        with mock.patch.object(ExponentialMovingAverage, "update", side_effect=AssertionError):
            one_step("tiny", **values)
    else:
        one_step("tiny", **values)


@pytest.mark.parametrize(("pos_embed", "rope"), [("factorized", "none"), ("factorized", "mixed"), ("none", "axial")])
def test_other_position_embeddings(pos_embed: str, rope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = PRESETS["tiny"]
    model = replace(tiny.model, pos_embed=pos_embed, rope=rope)
    monkeypatch.setitem(PRESETS, "tiny", replace(tiny, model=model))
    run, _ = one_step("tiny")
    assert run.model.config.pos_embed == pos_embed
    assert all(value.device == CUDA for value in run.trainer._average.tensors.values())


@pytest.mark.parametrize("name", PRESETS)
def test_scoring(name: str) -> None:
    config = configuration(name)
    model = VisionTransformer(config.model).eval()
    with no_gpu() as watch:
        on_gpu(model)
        classifier = PixelClassifier(model, MEAN, STD)
        images = torch.empty((128, 3, *config.model.img_size), dtype=torch.uint8, device=CUDA)
        watch.strict = True
        logits = classify(classifier, images)
    assert (logits.device, logits.dtype, logits.shape) == (CUDA, torch.float32, (128, 40))
    products = {"aten.addmm.default", "aten.linear.default"} & watch.dtypes.keys()
    assert all(torch.bfloat16 in watch.dtypes[product] for product in products)
    assert products


def test_a_compiler_that_works_is_used() -> None:
    """On a CPU and without a backend: what `vitpe train` does by itself on a GPU once it has compiled the model."""
    config = configuration("tiny").model
    forward = TrainForward(VisionTransformer(config), MEAN, STD, "fp32")
    images = torch.zeros(2, 3, *config.img_size, dtype=torch.uint8)
    compile_with = partial(torch.compile, backend="eager")
    notes: list[str] = []
    with mock.patch("torch.compile", compile_with):
        logits = CompiledOrNot(forward, notes.append)(images, None)
    assert logits.shape == (2, 40)
    assert not notes


def _reads_the_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self: TrainStep) -> None:
        original(self)
        if not math.isfinite(float(self._loss_sum)):
            raise AssertionError

    return compute


def _branches_on_numbers(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(self: ExponentialMovingAverage) -> None:
        original(self)
        if (next(iter(self.tensors.values())) > 1e9).any():
            raise AssertionError

    return update


def _copies_to_the_cpu(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(self: ExponentialMovingAverage) -> None:
        original(self)
        self.spare = {name: value.to("cpu", non_blocking=True) for name, value in self.tensors.items()}

    return update


def _mask_from_the_cpu(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: TrainForward, images: Tensor, keep: Tensor | None) -> Tensor:
        return original(self, images, keep) * torch.ones(images.shape[0], 1)

    return forward


def _mean_sent_at_each_step(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: TrainForward, images: Tensor, keep: Tensor | None) -> Tensor:
        return original(self, images, keep) + torch.tensor([0.5], device=images.device)

    return forward


def _counts_kept(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: TrainForward, images: Tensor, keep: Tensor | None) -> Tensor:
        return original(self, images[(images > 0).flatten(1).any(1)], keep)

    return forward


@pytest.mark.parametrize(
    ("owner", "method", "fault"),
    [
        (TrainStep, "_compute", _reads_the_loss),
        (ExponentialMovingAverage, "update", _branches_on_numbers),
        (ExponentialMovingAverage, "update", _copies_to_the_cpu),
        (TrainForward, "forward", _mask_from_the_cpu),
        (TrainForward, "forward", _mean_sent_at_each_step),
        (TrainForward, "forward", _counts_kept),
    ],
)
def test_deliberate_faults_are_found(owner: type, method: str, fault: Any) -> None:
    """Each of these is fine on a CPU, and either an error or a wait at each step on a GPU."""
    with mock.patch.object(owner, method, fault(getattr(owner, method))), pytest.raises(FAULTS):
        one_step("tiny", steps=1)


def test_an_optimizer_left_on_the_cpu_is_found() -> None:
    def on_cpu(*arguments: Any) -> Any:
        made = optimizer_module.make_optimizers(*arguments)
        for parameter in made.members[0].param_groups[0]["params"]:
            made.members[0].state[parameter]["momentum_buffer"] = torch.zeros(parameter.shape)
        return made

    with mock.patch("vitpe.training.loop.make_optimizers", on_cpu), pytest.raises(FAULTS):
        one_step("tiny", steps=1)
