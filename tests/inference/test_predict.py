"""Predicting files through the command line: what is written where, in which order, and what happens at every end."""

import csv
import io
import json
import os
import resource
import select
import shutil
import signal
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

from tests.helpers import COLOURS, REPOSITORY, contents, run_vitpe, train_tiny
from tests.helpers.in_process import call_vitpe, file_names, read_jsonl
from vitpe.cli.console import PIPED_WIDTH
from vitpe.data.images import decode
from vitpe.errors import VitpeError
from vitpe.inference import predict
from vitpe.inference.engines import NumpyEngine
from vitpe.inference.eval_options import EvalOptions, plan
from vitpe.inference.evaluate import evaluate
from vitpe.inference.inputs import Input, expand
from vitpe.inference.predict import Listing, Predictor, predict_files
from vitpe.inference.torch_engine import TorchEngine
from vitpe.runs.checkpoint import load_checkpoint, save_checkpoint
from vitpe.runs.weights import load_arrays

CPU = torch.device("cpu")


class Quiet:
    """An EvalReporter that hears nothing."""

    def start(self, description: str, total: int):
        return lambda count: None

    def note(self, text: str) -> None:
        pass


def make_predictor(trained_run: Path, engine: str) -> Predictor:
    weights, info = load_arrays(trained_run / "best.safetensors")
    chosen = NumpyEngine(weights, info) if engine == "numpy" else TorchEngine(weights, info, CPU)
    return Predictor(chosen, info, Listing.of(info))


@pytest.fixture(params=["numpy", "torch"])
def predictor(trained_run: Path, request: pytest.FixtureRequest) -> Predictor:
    return make_predictor(trained_run, request.param)


def start(trained_run: Path, *arguments: str | Path, **more) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "vitpe", "predict", "--checkpoint", str(trained_run), *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What runs in the background of a script has Ctrl-C ignored, and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **more,
    )


# What is predicted


def test_probabilities_are_those_that_eval_scores(trained_run, images, predictor):
    answers = evaluate(plan([trained_run], EvalOptions(split="train"), print), CPU, Quiet())[0]
    files = sorted(images.iterdir())[: len(answers.labels)]
    found = [list(each.probs.values()) for each in predict_files(predictor, map(Input, map(str, files)))]
    np.testing.assert_allclose(found, answers.probs(), rtol=0, atol=1e-6)
    assert np.ptp(answers.probs(), axis=0).max() > 0.01  # the images are told apart


def test_a_record_has_these_fields(predicted, images):
    called = predicted(images / "000001.jpg")
    assert (called.code, called.stderr) == (0, "")
    record = json.loads(called.stdout)
    assert list(record) == ["schema", "file", "probs", "present"]
    assert record["schema"] == 1
    assert record["file"] == str(images / "000001.jpg")
    assert tuple(record["probs"]) == COLOURS
    present = [name for name, prob in record["probs"].items() if prob >= 0.5]
    assert record["present"] == sorted(present, key=lambda name: -record["probs"][name])


def test_the_formats_say_the_same(predicted, images):
    files = [images / "000001.jpg", images / "000002.jpg", "missing.jpg"]
    lines = predicted(*files, "--format", "jsonl")
    whole = predicted(*files, "--format", "json")
    table = list(csv.DictReader(io.StringIO(predicted(*files, "--format", "csv").stdout)))
    assert json.loads(whole.stdout) == read_jsonl(lines)
    assert [row["file"] for row in table] == file_names(lines)
    for row, record in zip(table, read_jsonl(lines), strict=True):
        assert row["error"] == record.get("error", "")
        assert {name: row[name] for name in COLOURS} == {
            name: str(record["probs"][name]) if "probs" in record else "" for name in COLOURS
        }


def test_a_pipe_gets_json_lines_and_a_table_when_asked(predicted, images):
    assert predicted(images / "000001.jpg").out == predicted(images / "000001.jpg", "--format", "jsonl").out
    one = predicted(images / "000001.jpg", "--format", "table").stdout
    assert "of 4 present" in one
    assert all(name in one for name in COLOURS)
    two = predicted(images / "000001.jpg", images / "000002.jpg", "--format", "table").stdout
    assert len(two.splitlines()) == 4
    assert two.count(f"{images}/00000") == 2
    assert max(len(line) for line in (one + two).splitlines() if str(images) not in line) <= PIPED_WIDTH


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "table"])
def test_output_in_a_pipe_is_the_same_bytes_whatever_the_terminal(predicted, images, kind):
    arguments = [images, "missing.jpg", "--format", kind]
    plain = predicted(*arguments, TERM="xterm-256color")
    assert b"\x1b" not in plain.out
    for environment in (
        {"COLUMNS": "20", "LINES": "5"},
        {"COLUMNS": "300", "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        {"NO_COLOR": "1", "TERM": "dumb"},
        {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"},
    ):
        called = predicted(*arguments, **environment)
        assert called.out == plain.out
        assert called.stderr == plain.stderr


def test_top_threshold_and_attributes(predicted, images):
    file = images / "000001.jpg"
    everything = json.loads(predicted(file).stdout)["probs"]
    ranked = sorted(everything, key=lambda name: -everything[name])
    assert list(json.loads(predicted(file, "--top", "2").stdout)["probs"]) == ranked[:2]
    assert json.loads(predicted(file, "--threshold", "0").stdout)["present"] == ranked
    assert json.loads(predicted(file, "--threshold", "1").stdout)["present"] == []
    chosen = json.loads(predicted(file, "--attributes", "Blue, Red").stdout)["probs"]
    assert chosen == {"Blue": everything["Blue"], "Red": everything["Red"]}
    assert list(chosen) == ["Blue", "Red"]


def test_present_means_above_the_checkpoints_own_thresholds(tmp_path, trained_run, images):

    model, info = load_checkpoint(trained_run / "best.safetensors")
    path = tmp_path / "tuned.safetensors"
    save_checkpoint(path, model.state_dict(), replace(info, thresholds=(0.0, 1.0, 0.0, 1.0)))
    record = json.loads(call_vitpe("predict", images / "000001.jpg", "--checkpoint", path).stdout)
    assert set(record["present"]) == {"Red", "Blue"}


# What the model saw


def test_crops_show_what_the_model_saw(predicted, images, tmp_path, trained_run):
    crops = tmp_path / "new" / "crops"
    called = predicted(images / "000001.jpg", images / "000002.jpg", images / "000001.jpg", "--save-crops", crops)
    assert called.code == 0
    assert sorted(file.name for file in crops.iterdir()) == [
        "00000001-000001.png",
        "00000002-000002.png",
        "00000003-000001.png",
    ]
    _, info = load_checkpoint(trained_run / "best.safetensors")
    predictor = make_predictor(trained_run, "numpy")
    seen = predictor.prepare((images / "000002.jpg").read_bytes(), "", None)[0].pixels
    assert tuple(seen.shape) == (3, *info.model.img_size)
    saved = decode((crops / "00000002-000002.png").read_bytes())
    assert np.array_equal(saved, seen)


def test_the_model_gets_the_largest_centre_crop_of_its_shape(predictor):
    height, width = (8 * side for side in predictor.info.stored_size)
    middle = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def seen(above: int, beside: int) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(np.pad(middle, ((above, above), (beside, beside), (0, 0)))).save(buffer, "png")
        return predictor.prepare(buffer.getvalue(), "", None)[0].pixels

    assert np.array_equal(seen(0, 50), seen(0, 0))
    assert np.array_equal(seen(30, 0), seen(0, 0))
    assert not np.array_equal(seen(30, 50), seen(0, 0))
    assert tuple(seen(0, 0).shape) == (3, *predictor.info.model.img_size)


def test_crops_that_cannot_be_written(predicted, images, tmp_path):
    (tmp_path / "file").touch()
    called = predicted(images / "000001.jpg", "--save-crops", tmp_path / "file")
    assert (called.code, called.out) == (1, b"")
    assert called.stderr.startswith(f"error: cannot write into {tmp_path}/file: ")


def test_a_model_of_drawn_faces_warns(tmp_path, images, celeba):
    train_tiny(
        "drawn_faces", tmp_path / "runs", data__num_train=8, data__num_valid=4, train__steps=1, train__num_evals=1
    )
    called = call_vitpe("predict", images / "000001.jpg", "--checkpoint", tmp_path / "runs")
    assert called.code == 0
    assert called.stderr == "this model was trained on drawn faces: do not trust it on photos\n"
    assert len(read_jsonl(called)) == 1


# Streams and their ends


def test_many_images_in_order_with_little_held(predictor, images):
    small = io.BytesIO()
    Image.new("RGB", (22, 27), "red").save(small, "png")
    given = 0
    most_ahead = 0
    total = 20_000

    def inputs() -> Iterator[Input]:
        nonlocal given
        for given in range(total):
            yield Input(str(given), small.getvalue() if given % 100 else b"broken")

    early = 0
    for number, prediction in enumerate(predict_files(predictor, inputs())):
        assert prediction.file == str(number)
        assert (prediction.error is None) == bool(number % 100)
        most_ahead = max(most_ahead, given - number)
        if number == 2000:
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert number == total - 1
    assert most_ahead <= 8 * predictor.engine.max_batch * (os.cpu_count() or 1)
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early) * unit < 16 << 20


def test_on_a_gpu_one_thread_runs_the_model_and_many_decode(trained_run, images, monkeypatch):
    """Any device but the CPU is taken for one; here what is sent to it stays."""
    threads = {"decoding": set(), "the model": set()}

    def noted(what, call):
        def noting(*arguments):
            threads[what].add(threading.get_ident())
            return call(*arguments)

        return noting

    predictor = make_predictor(trained_run, "torch")
    classifier = predictor.engine.classifier
    monkeypatch.setattr(predict, "decode", noted("decoding", decode))
    monkeypatch.setattr(classifier, "forward", noted("the model", classifier.forward))
    files = [Input(str(path)) for path in sorted(images.iterdir())] * 20
    expected = list(predict_files(predictor, files))
    threads["the model"].clear()
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor)
    predictor.engine.device = torch.device("mps")
    found = list(predict_files(predictor, files))
    assert [each.file for each in found] == [each.file for each in expected]
    assert threads["the model"] == {threading.get_ident()}
    assert threads["the model"].isdisjoint(threads["decoding"])


def test_equal_inputs_give_equal_digits(predictor, images):
    files = [str(file) for file in sorted(images.iterdir())]
    first = list(predict_files(predictor, map(Input, files)))
    assert list(predict_files(predictor, map(Input, files))) == first


def test_a_bug_is_raised_and_all_threads_end(predictor, images):
    def inputs() -> Iterator[Input]:
        yield Input(str(images / "000001.jpg"))
        raise RuntimeError("in the inputs")

    before = set(threading.enumerate())
    found = predict_files(predictor, inputs())
    assert next(found).error is None
    with pytest.raises(RuntimeError, match="in the inputs"):
        next(found)

    def broken(image, name):
        raise RuntimeError("in the aligner")

    with pytest.raises(RuntimeError, match="in the aligner"):
        list(predict_files(predictor, [Input(str(images / "000001.jpg"))] * 100, broken))
    early = predict_files(predictor, (Input(str(images / "000001.jpg")) for _ in range(10_000)))
    next(early)
    early.close()
    patience = time.monotonic() + 30
    while set(threading.enumerate()) - before and time.monotonic() < patience:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_each_answer_comes_while_stdin_stays_open_and_an_interrupt_ends_it(trained_run, images):
    with start(trained_run, "-") as process:
        try:
            for number in (1, 2, 3):
                process.stdin.write(os.fsencode(images / f"00000{number}.jpg") + b"\n")
                process.stdin.flush()
                assert select.select([process.stdout], [], [], 120)[0]
                assert json.loads(process.stdout.readline())["file"] == str(images / f"00000{number}.jpg")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stdout.read() == b""
            assert process.stderr.read() == b""
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["jsonl", "table"])
def test_a_pipe_that_is_closed_early_ends_it_quietly(trained_run, images, kind):
    names = b"".join(os.fsencode(images / "000001.jpg") + b"\n" for _ in range(20_000))
    with start(trained_run, "-", "--format", kind) as process:
        try:
            writer = threading.Thread(target=_feed, args=(process.stdin, names), daemon=True)
            writer.start()
            assert process.stdout.readline()
            process.stdout.close()
            assert process.wait(120) == 141
            assert process.stderr.read() == b""
        finally:
            process.kill()


def _feed(stream, data: bytes) -> None:
    try:
        stream.write(data)
        stream.close()
    except BrokenPipeError:
        pass


def test_on_a_terminal_one_image_gives_a_table(trained_run, images):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vitpe", "predict", str(images / "000001.jpg"), "--checkpoint", str(trained_run)]
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment | {"COLUMNS": "80", "TERM": "xterm"},
        check=False,
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "\x1b[" in shown
    assert f"{images}/000001.jpg" in shown  # in one piece, however narrow it is
    assert "of 4 present" in shown
    assert "━" in shown


def test_as_users_run_it(trained_run, images):
    done = run_vitpe("predict", images / "000001.jpg", "missing.jpg", "--checkpoint", trained_run, FORCE_COLOR="1")
    assert done.code == 1
    assert [json.loads(line)["file"] for line in done.stdout.splitlines()] == [f"{images}/000001.jpg", "missing.jpg"]
    assert done.stderr.splitlines()[0] == "error: 1 image could not be read: missing.jpg"


# Parts


def test_expand_never_fails_on_a_name(tmp_path):
    names = ["", "\0", "a" * 5000, "[", "~nobody/x", str(tmp_path / "x" / "y")]
    found = list(expand(names, io.BytesIO(), b"\n"))
    assert [each.name for each in found] == names
    for each in found:
        with pytest.raises(VitpeError):
            each.read()


def test_crops_replace_crops_and_nothing_else(predicted, images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(images / "000002.jpg", other / "000001.jpg")
    crops = tmp_path / "crops"
    for _ in range(2):
        called = predicted(images / "000001.jpg", other / "000001.jpg", "--save-crops", crops)
        assert called.code == 0, called.stderr
    first, second = sorted(crops.iterdir())
    assert first.read_bytes() != second.read_bytes()
    Image.new("RGB", (9, 9)).save(first)
    before = contents(crops)
    called = predicted(images / "000001.jpg", "--save-crops", crops)
    assert called.code == 2
    assert f"{first} is there already, and vitpe did not write it" in called.stderr
    assert contents(crops) == before
