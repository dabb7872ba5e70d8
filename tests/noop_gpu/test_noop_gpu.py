"""Every command on a GPU, from its first option to its last file, where there is none: see tests/noop_gpu."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import tiny_config, tiny_options, write_celeba
from tests.noop_gpu import Command, Ran, build, memory, run, steps, unavailable
from vitpe.config import PRESETS
from vitpe.training.memory_needs import Needs, training_needs

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

RECIPE = {
    "model__stem_width": 4,
    "model__drop_path_rate": 0.1,
    "train__ema_decay": 0.9,
    "train__whiten": True,
    "train__patch_keep": 0.5,
    "train__precision": "auto",
    "train__compile": "auto",
    "train__num_evals": 1,
    "train__num_checkpoints": 2,
}
"""All that a preset may ask for."""
LARGE = {"train__batch_size": 24, "model__img_size": [208, 176], "model__embed_dim": 64}
"""Whose activations are more than its weights."""
BFLOAT16 = "BFloat16"  # in the names of kernels that work with it


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("noop_gpu"))


def train(celeba: Path, *more: str | Path, device: str = "cuda", steps: int = 2, **values) -> list[str | Path]:
    options = tiny_options(celeba, train__steps=steps, **(RECIPE | values))
    options[options.index("cpu")] = device
    return ["train", *options, *more]


def train_needs(celeba: Path, **values) -> Needs:
    """What it takes on a GPU that computes in bfloat16; each of the processor's threads has a batch there."""
    config = tiny_config(celeba, **RECIPE | values)
    precise = replace(config.train, precision="bf16")
    return training_needs(replace(config.model, num_classes=4), precise, precise.batch_size, "cuda")


@pytest.fixture(scope="module")
def ran(library: Path, celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """All commands that need no process of their own, on two GPUs, the second of which is too old for bfloat16."""
    folder = tmp_path_factory.mktemp("ran")
    faces = write_celeba(tmp_path_factory.mktemp("more"), num_train=200, num_valid=0, num_test=0) / "img_align_celeba"
    trained, needs, larger = ["--run", "device"], train_needs(celeba), train_needs(celeba, **LARGE)
    half = larger.total - larger.activations // 2
    commands = {
        "train": Command(train(celeba, *trained, "--store", "device")),
        "resume": Command(train(celeba, *trained, "--store", "disk", "--resume", steps=3)),
        "memory": Command(train(celeba, "--run", "memory", "--store", "memory")),
        "eval": Command(["eval", "device", "--device", "cuda"]),
        "predict": Command(["predict", "--checkpoint", "device", "--device", "cuda", faces]),
        "predict twice": Command(["predict", "--checkpoint", "device", "--device", "cuda", faces, faces]),
        "eval more": Command(["eval", "device", "--device", "cuda", "--data", faces.parent, "--split", "train"]),
        "captured": Command(train(celeba, "--run", "captured", steps=8)),
        "not captured": Command(train(celeba, "--run", "not", steps=8, train__cuda_graph=False)),
        "in parts": Command(train(celeba, "--run", "parts", steps=8, train__micro_batch_size=3)),
        "large batches": Command(train(celeba, "--run", "large", **LARGE), free_bytes=half),
        "little room": Command(train(celeba, "--run", "little", "--store", "auto"), free_bytes=400_000_000),
        "old": Command(train(celeba, "--run", "old", device="cuda:1", train__muon_lr=None)),
        "old eval": Command(["eval", "old", "--device", "cuda:1"]),
        "no room to train": Command(train(celeba, "--run", "none"), free_bytes=0),
        "no room for images": Command(
            train(celeba, "--run", "small", "--store", "device"), free_bytes=needs.total - needs.batches + 10_000
        ),
        "no room to eval": Command(["eval", "device", "--device", "cuda"], free_bytes=0),
        "no room to predict": Command(["predict", "--checkpoint", "device", "--device", "cuda", faces], free_bytes=0),
    }
    return run(library, commands, folder, NOOP_GPU_COUNT="2", NOOP_GPU_CAPABILITIES="90,75")[0]


@pytest.mark.parametrize("name", ["train", "resume", "memory", "eval", "predict", "old", "old eval"])
def test_a_command_runs_on_the_gpu(ran: dict[str, Ran], name: str) -> None:
    assert ran[name].code == 0, ran[name].stderr
    assert ran[name].counts["launch"] > 0
    assert ran[name].counts["blas"] > 0


@pytest.mark.parametrize(("name", "where"), [("train", "in the memory of cuda:0"), ("memory", "encoded in memory")])
def test_images_wait_where_they_are_asked_to(ran: dict[str, Ran], name: str, where: str) -> None:
    assert where in ran[name].stderr
    assert "on cuda:0 (no-op GPU)" in ran[name].stderr


def test_a_run_goes_on_with_another_store(ran: dict[str, Ran]) -> None:
    assert "goes on after step 2 of 3" in ran["resume"].stderr
    assert "read or drawn as they are needed" in ran["resume"].stderr
    assert json.loads(ran["resume"].stdout)["step"] == 3


def test_the_second_gpu_is_used_by_its_number(ran: dict[str, Ran]) -> None:
    assert "on cuda:1 (no-op GPU)" in ran["old"].stderr


def test_the_kernel_of_attention_is_chosen_on_the_gpu_and_kept_by_a_resumed_run(ran: dict[str, Ran]) -> None:
    """All take equally long there: the first that takes such heads is the fastest."""
    timed = sum("flash_fwd" in name for name in ran["train"].kernels)
    assert timed
    assert any("fmha" in name for name in ran["train"].kernels)  # the memory-efficient one was tried
    assert not any("fmha" in name for name in ran["resume"].kernels)
    assert "attention" not in ran["resume"].stderr


@pytest.mark.parametrize(("name", "expected"), [("train", True), ("eval", True), ("old", False), ("old eval", False)])
def test_bfloat16_is_for_gpus_that_compute_with_it(ran: dict[str, Ran], name: str, expected: bool) -> None:
    assert any(BFLOAT16 in kernel for kernel in ran[name].kernels) == expected


def test_a_small_model_is_not_compiled(ran: dict[str, Ran]) -> None:
    assert ran["train"].counts["triton"] == 0
    assert "compiling" not in ran["train"].stderr


def test_from_the_fourth_on_a_step_is_one_graph(ran: dict[str, Ran]) -> None:
    assert ran["captured"].code == ran["not captured"].code == 0, ran["captured"].stderr
    assert ran["captured"].counts["graph"] == 5
    assert ran["not captured"].counts["graph"] == 0
    assert ran["in parts"].counts["graph"] == 5, ran["in parts"].stderr
    for call in ("launch", "blas"):  # three of eight steps ask for all of it, and the capture once more
        assert ran["captured"].counts[call] < 0.7 * ran["not captured"].counts[call]


def test_a_step_that_cannot_be_captured_goes_on_as_it_is(library: Path, celeba: Path, tmp_path: Path) -> None:
    (done,) = run(library, {"train": Command(train(celeba, steps=8))}, tmp_path, NOOP_GPU_NO_GRAPHS="1")
    assert done["train"].code == 0, done["train"].stderr
    assert done["train"].counts["graph"] == 0
    assert done["train"].stderr.count("the step does not run as one CUDA graph") == 1
    assert json.loads(done["train"].stdout)["step"] == 8


def test_the_calls_of_a_step_are_counted(library: Path, celeba: Path) -> None:
    step = steps.measure(library, celeba, "tiny", graph=True)
    assert step["graph"] == 1
    assert step["calls"] < 40  # without a graph it is nearly 600
    assert step["host_ms"] > 0


def test_the_memory_of_a_run_is_what_was_reckoned(library: Path, tmp_path: Path) -> None:
    celeba = write_celeba(tmp_path / "celeba", num_train=64)
    train = replace(PRESETS["tiny"].train, compile="off")
    reckoned, measured = memory.measure(library, celeba, "tiny", train)
    assert reckoned < measured < 1.15 * reckoned + 100_000_000  # products have a workspace


def test_one_thread_alone_runs_the_model_in_predict(ran: dict[str, Ran]) -> None:
    """The one that has run it in the commands before: a thread that multiplies for the first time would be counted."""
    assert ran["predict"].counts["blas_thread"] == 0
    records = [json.loads(line) for line in ran["predict"].stdout.splitlines()]
    assert [Path(record["file"]).name for record in records] == [f"{n:06d}.jpg" for n in range(1, 201)]


def test_the_host_waits_for_answers_alone(ran: dict[str, Ran]) -> None:
    assert ran["predict twice"].code == ran["eval more"].code == 0, ran["eval more"].stderr

    def more(name: str, than: str, what: str) -> int:
        return ran[name].counts[what] - ran[than].counts[what]

    assert more("predict twice", "predict", "synchronize") == more("predict twice", "predict", "to_host") >= 3
    assert more("eval more", "eval", "synchronize") == more("eval more", "eval", "to_host") == 0
    assert more("eval more", "eval", "blas") > 0


def test_what_cannot_be_trained_is_refused_before_it_is_tried(ran: dict[str, Ran]) -> None:
    refused = ("no room to train", "no room for images", "large batches")
    assert [ran[name].code for name in refused] == [2, 2, 2], [ran[name].stderr for name in refused]
    told = [ran[name].stderr.splitlines()[-2:] for name in refused]
    assert all("training needs" in error and "cuda:0 has free" in error for error, _ in told)
    assert [hint for _, hint in told if "micro_batch_size" in hint] == [told[2][1]]
    assert "--store auto" in told[1][1]


def test_images_are_decoded_where_they_leave_room_for_training(ran: dict[str, Ran]) -> None:
    assert "images: encoded in memory" in ran["little room"].stderr
    told = r"memory of cuda:0: \d+ MB of images, decoded, and \d+ MB to train, of 0.4 GB that were free"
    assert re.search(told, ran["little room"].stderr)
    assert "in the memory of cuda:0" in ran["captured"].stderr


@pytest.mark.parametrize(
    ("name", "hint"), [("no room to eval", "--device cpu"), ("no room to predict", "--device cpu")]
)
def test_too_little_memory_is_an_error_that_says_what_to_lower(ran: dict[str, Ran], name: str, hint: str) -> None:
    assert ran[name].code == 1
    error, told = ran[name].stderr.splitlines()[-2:]
    assert error.startswith("error: the GPU has too little memory")
    assert told.startswith("hint: ")
    assert hint in told


def test_no_kernel_of_a_step_adds_in_an_order_of_its_own(ran: dict[str, Ran]) -> None:
    forbidden = ("index_put", "indexing_backward", "scatter_add", "atomic")
    assert not [name for name in ran["train"].kernels if any(word in name for word in forbidden)]


def test_two_workers_train_together(library: Path, celeba: Path, tmp_path: Path) -> None:
    commands = {"train": Command(train(celeba, steps=14))}
    both = run(library, commands, tmp_path, workers=2, NOOP_GPU_COUNT="2")
    assert [worker["train"].code for worker in both] == [0, 0], both[0]["train"].stderr
    first, second = (worker["train"] for worker in both)
    assert "on cuda:0 (no-op GPU), 2 workers" in first.stderr
    assert not second.stdout
    for worker in (first, second):
        assert worker.counts["nccl"] > 0
        assert worker.counts["graph"] == 3  # from the twelfth step on, when the gradients' buckets are chosen
        assert "CUDA graph" not in worker.stderr


def test_a_compiled_step_runs_and_adds_in_one_order(library: Path, celeba: Path, tmp_path: Path) -> None:
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    commands = {"train": Command(train(celeba, train__compile="on", model__stem_width=0))}
    (done,) = run(library, commands, tmp_path, **caches)
    assert done["train"].code == 0, done["train"].stderr
    assert "compiling the model: a minute or two" in done["train"].stderr
    assert "torch.compile failed" not in done["train"].stderr
    assert done["train"].counts["triton"] > 0
    written = [path.read_text() for path in tmp_path.rglob("*.py")]
    assert any("@triton.jit" in text for text in written)
    assert not any("tl.atomic_add(" in text for text in written)
