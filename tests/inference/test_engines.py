"""Which engine answers: numpy at once, torch for many, and in a stream one after the other."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import REPOSITORY
from tests.helpers.in_process import call_vitpe, read_jsonl
from vitpe.config import PRESETS
from vitpe.device import computes_bfloat16
from vitpe.inference import engines, predict
from vitpe.inference.engines import HandingOver, NumpyEngine, many_images, num_operations
from vitpe.inference.inputs import Input
from vitpe.inference.predict import Listing, Predictor, choose_engine, predict_files
from vitpe.inference.torch_engine import TorchEngine
from vitpe.model.vit import VisionTransformer
from vitpe.runs.metadata import read_info
from vitpe.runs.weights import load_arrays

CPU = torch.device("cpu")
HEAVY = ("torch", "torchvision", "rich.console", "matplotlib", "imageio", "onnxruntime", "pyarrow", "h5py")


def imported(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, set[str]]:
    """The exit code of a command of its own process, and which of HEAVY it imported."""
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(*sorted(set({HEAVY}) & set(sys.modules)), sep=',', file=sys.stderr))\n"
        "from vitpe.__main__ import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        input=stdin,
        capture_output=True,
        check=False,
    )
    return done.returncode, set(filter(None, done.stderr.decode().splitlines()[-1].split(",")))


def test_a_single_answer_imports_nothing_heavy(trained_run, images):
    face = images / "000001.jpg"
    assert imported("predict", face, "--checkpoint", trained_run) == (0, set())
    assert imported("predict", "--stdin-image", "--checkpoint", trained_run, stdin=face.read_bytes()) == (0, set())
    assert imported("predict", "-", "--checkpoint", trained_run, stdin=os.fsencode(face)) == (0, set())


def test_on_request_torch_answers(trained_run, images):
    code, heavy = imported("predict", images / "000001.jpg", "--checkpoint", trained_run, "--device", "cpu")
    assert code == 0
    assert {"torch", "torchvision"} <= heavy


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["predict", "face.jpg", "--checkpoint", "nowhere"], 1),
        (["predict", "nowhere.jpg", "--checkpoint", "RUN"], 1),
        (["predict", "face.jpg", "--checkpoint", "RUN", "--attributes", "Smilng"], 2),
        (["eval", "nowhere"], 1),
        (["eval", "RUN", "--split", "valid", "--thresholds", "tune"], 2),
        (["eval", "RUN", "--data", "nowhere"], 1),
        (["train", "--set", "model.dpth=3"], 2),
        (["train", "--data", "nowhere"], 1),
        (["train", "--preset", "huge"], 2),
        (["export", "nowhere"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_is_known_without_torch_is_said_without(arguments, code, trained_run, tmp_path):
    arguments = [str(trained_run) if each == "RUN" else each for each in arguments]
    if arguments[0] == "train":
        arguments += ["--run", str(tmp_path / "run")]
    found, heavy = imported(*arguments)
    assert found == code
    assert not {"torch", "torchvision"} & heavy


def inputs(images: Path, count: int) -> list[Input]:
    return [Input(str(images / f"00000{1 + number % 4}.jpg")) for number in range(count)]


def test_few_images_are_for_numpy_and_many_for_torch(trained_run, images, monkeypatch):
    monkeypatch.setattr(predict, "many_images", lambda config: 5)
    loaded = load_arrays(trained_run / "best.safetensors")
    for count, kind in ((4, NumpyEngine), (5, TorchEngine), (9, TorchEngine)):
        engine, again = choose_engine(*loaded, iter(inputs(images, count)))
        assert type(engine) is kind
        assert [each.name for each in again] == [each.name for each in inputs(images, count)]
    assert type(choose_engine(*loaded, inputs(images, 1), "cpu")[0]) is TorchEngine
    assert type(choose_engine(*loaded, inputs(images, 9), streaming=True)[0]) is HandingOver


def test_both_give_the_same_probabilities(trained_run, images):
    weights, info = load_arrays(trained_run / "best.safetensors")
    listing = Listing.of(info)
    first, second = (
        list(predict_files(Predictor(engine, info, listing), inputs(images, 12)))
        for engine in (NumpyEngine(weights, info), TorchEngine(weights, info, CPU))
    )
    for ours, theirs in zip(first, second, strict=True):
        assert ours.file == theirs.file
        np.testing.assert_allclose(list(ours.probs.values()), list(theirs.probs.values()), rtol=0, atol=2e-6)


class Counting:
    """An engine that marks its answers: all logits are its number."""

    in_workers = True
    max_batch = 2

    def __init__(self, number: float, num_attributes: int) -> None:
        self.number, self.num_attributes = number, num_attributes

    def on_classify(self) -> None:
        pass

    def classify(self, images):
        self.on_classify()
        return np.full((len(images), self.num_attributes), self.number)

    def start(self, images):
        logits = self.classify(images)
        return lambda: logits


@pytest.mark.parametrize("in_workers", [True, False])
def test_a_stream_is_handed_over_in_order_when_enough_wait(trained_run, in_workers, monkeypatch):
    info = read_info(trained_run / "best.safetensors")
    answered, loaded, many, total = threading.Event(), threading.Event(), 40, 400
    second = Counting(1.0, len(info.attributes))
    second.in_workers = in_workers

    def load():
        assert answered.wait(60)
        loaded.set()
        return second

    first = Counting(-1.0, len(info.attributes))
    monkeypatch.setattr(first, "on_classify", answered.set)
    engine = HandingOver(first, load, many)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(buffer, "png")

    def names() -> Iterator[Input]:
        for number in range(total):
            if number == 10:  # few so far: nothing has begun
                assert not loaded.is_set()
            if number == total // 2:
                assert loaded.wait(60)
            yield Input(str(number), buffer.getvalue())

    found = list(predict_files(Predictor(engine, info, Listing.of(info)), names(), streaming=True))
    assert [each.file for each in found] == list(map(str, range(total)))
    answers = [next(iter(each.probs.values())) > 0.5 for each in found]
    assert not answers[0]
    assert answers[-1]


def test_a_second_engine_that_cannot_be_loaded_leaves_the_first(trained_run):
    info = read_info(trained_run / "best.safetensors")

    def load():
        raise ImportError("torch")

    engine = HandingOver(Counting(-1.0, len(info.attributes)), load, 2)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(buffer, "png")
    names = (Input(str(number), buffer.getvalue()) for number in range(100))
    assert len(list(predict_files(Predictor(engine, info, Listing.of(info)), names, streaming=True))) == 100


def test_operations_are_those_of_the_products():
    """Against a count of what torch multiplies."""
    from torch.utils.flop_counter import FlopCounterMode

    # With the class token alone, the last block does less.
    for name, pool in (("tiny", "avg"), ("base", "avg"), ("laptop", "queries")):
        config = replace(PRESETS[name].model, global_pool=pool, stem_width=0)
        with torch.device("meta"):
            model, image = VisionTransformer(config), torch.empty(1, 3, *config.img_size)
        with FlopCounterMode(display=False) as counter:
            model(image)
        assert num_operations(config) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_larger_the_model_the_fewer_are_many(monkeypatch):
    monkeypatch.setattr(engines, "_may_have_gpu", lambda: False)
    sizes = [many_images(PRESETS[name].model) for name in ("tiny", "laptop", "small", "base")]
    assert sizes == sorted(sizes, reverse=True)
    assert 50 < sizes[-1] < sizes[0] < 50_000
    monkeypatch.setattr(engines, "_may_have_gpu", lambda: True)
    assert many_images(PRESETS["base"].model) < sizes[-1]


@pytest.mark.skipif(not computes_bfloat16(CPU), reason="this processor has no bfloat16")
def test_bfloat16_is_nearly_the_same(trained_run, images):
    files = [images / f"00000{number}.jpg" for number in (1, 2, 3)]
    exact, fast = (
        np.array(
            [
                list(record["probs"].values())
                for record in read_jsonl(
                    call_vitpe("predict", "--checkpoint", trained_run, "--precision", kind, *files)
                )
            ]
        )
        for kind in ("fp32", "bf16")
    )
    assert 0 < np.abs(exact - fast).max() < 0.02


def test_bfloat16_is_refused_where_it_is_emulated(trained_run, images, monkeypatch):
    monkeypatch.setattr("vitpe.device.computes_bfloat16", lambda device: False)
    called = call_vitpe("predict", "--checkpoint", trained_run, "--precision", "bf16", images / "000001.jpg")
    assert called.code == 2
    assert called.stderr.startswith("error: cpu has no bfloat16")


class Overlapping(Counting):
    """As on a GPU: notes when it is given what, and when its answers are asked for."""

    in_workers = False

    def __init__(self, num_attributes: int) -> None:
        super().__init__(0.0, num_attributes)
        self.log: list[tuple[str, int]] = []

    def start(self, images):
        number = sum(what == "start" for what, _ in self.log)
        self.on_classify()
        self.log.append(("start", number))

        def answer():
            self.log.append(("answer", number))
            return np.full((len(images), self.num_attributes), float(number))

        return answer


def test_a_gpu_is_given_the_next_batch_before_its_answers_are_waited_for(trained_run, images, monkeypatch):
    info = read_info(trained_run / "best.safetensors")
    engine = Overlapping(len(info.attributes))
    monkeypatch.setattr(engine, "on_classify", lambda: time.sleep(0.2))  # longer than the next takes to be read
    found = list(predict_files(Predictor(engine, info, Listing.of(info)), inputs(images, 9)))
    assert [prediction.file for prediction in found] == [image.name for image in inputs(images, 9)]
    assert engine.log[:4] == [("start", 0), ("start", 1), ("answer", 0), ("start", 2)]
    assert sorted(engine.log) == sorted((what, n) for what in ("start", "answer") for n in range(len(engine.log) // 2))
    probs = [next(iter(prediction.probs.values())) for prediction in found]
    assert probs == sorted(probs)
    assert len({*probs}) == len(engine.log) // 2


def test_what_a_stream_has_given_is_answered_though_no_more_comes(trained_run, images):
    info = read_info(trained_run / "best.safetensors")
    engine, answered = Overlapping(len(info.attributes)), threading.Event()

    def one_by_one() -> Iterator[Input]:
        for image in inputs(images, 3):
            yield image
            assert answered.wait(60)
            answered.clear()

    for _ in predict_files(Predictor(engine, info, Listing.of(info)), one_by_one(), streaming=True):
        answered.set()
    assert engine.log == [(what, number) for number in range(3) for what in ("start", "answer")]
