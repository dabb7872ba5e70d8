"""What users and programs get, to the letter, as it was recorded: a net for changes that should change nothing.

GOLDEN=record python -m pytest -n 0 tests/golden    records anew; `git diff tests/golden` shows what changed.

Help and errors are compared everywhere. Numbers, pictures and pixels hold for the versions and the processor that are
named in made_with.json; elsewhere these tests are skipped.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import pty
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image, ImageCms
from torch.backends.cpu import get_cpu_capability

from tests.helpers import log_rows
from tests.helpers.in_process import call_vitpe
from tests.helpers.viz_history import write_run
from vitpe import __version__
from vitpe.__main__ import main

GOLDEN = Path(__file__).parent
LINUX = sys.platform == "linux"
RECORDING = os.environ.get("GOLDEN") == "record"
TRAIN = "train --device cpu --num-train 64 --num-valid 32 --batch-size 16 --steps 20 --set train.precision=fp32"


def check(name: str, found: str) -> None:
    """`found` is what was recorded under the name."""
    path = GOLDEN / name
    if RECORDING:
        path.write_text(found, encoding="utf-8")
    assert found.splitlines() == path.read_text(encoding="utf-8").splitlines()


def versions() -> dict[str, str]:
    """What decides on the last digit and on a picture's bytes."""
    names = ("torch", "torchvision", "numpy", "pillow", "matplotlib", "imageio", "rich", "typer")
    found = {name: importlib.metadata.version(name) for name in names}
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if LINUX else None
    return found | {"processor": f"{processor[1] if processor else platform.processor()}, {get_cpu_capability()}"}


def skip_unless_recorded_with(*names: str) -> None:
    found, recorded = versions(), json.loads((GOLDEN / "made_with.json").read_text())
    if changed := [f"{name} {found[name]}" for name in names if recorded.get(name) != found[name]]:
        pytest.skip(f"recorded with other versions than {', '.join(changed)}")


@pytest.fixture(scope="session", autouse=True)
def same_typer() -> None:
    """The look of help and of the errors of options is typer's."""
    if RECORDING:
        check("made_with.json", json.dumps(versions(), indent=1) + "\n")
    skip_unless_recorded_with("typer")


@pytest.fixture(scope="session")
def same_versions(same_typer: None) -> None:
    skip_unless_recorded_with(*versions())


def normalized(text: str) -> str:
    """Without what differs between two runs: times, speeds, this machine and what it is waited for; digits beyond the
    fourth.
    """
    text = re.sub(r"^(step [\d,]+/[\d,]+  .*|[^:\n]* …|.*[\d,]+/[\d,]+, [\w ]+ left)\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\b[\d,]+ images/s", "N images/s", text)
    text = re.sub(r"(?<=N images/s)  [\w ]+ left", "  TIME left", text)
    text = re.sub(r"on cpu \(\d+ threads\)", "on cpu (N threads)", text)
    text = re.sub(r"-?\d+\.\d{5,}(e[-+]?\d+)?", lambda number: f"{float(number[0]):.4f}", text)
    text = text.replace(str(Path.cwd()), "FOLDER")
    text = re.sub(r"this machine has .*", "this machine has DEVICES", text)
    return text.replace(f"vitpe {__version__}", "vitpe VERSION")


def in_pipe(command: str) -> str:
    """The command, its exit code and what it wrote, away from a terminal."""
    done = call_vitpe(*command.split(), COLUMNS="80")
    return f"$ vitpe {command}\n[exit {done.code}]\n[stdout]\n{done.stdout}[stderr]\n{done.stderr}\n"


def on_terminal(command: str) -> str:
    """The same on a terminal of 80 columns: colours stay, what is drawn over (bars) goes."""
    streams, masters, written = [], [], [bytearray(), bytearray()]
    for _ in range(2):
        master, slave = pty.openpty()
        masters.append(master)
        streams.append(os.fdopen(slave, "w", encoding="utf-8"))
    readers = [threading.Thread(target=_read, args=pair) for pair in zip(masters, written, strict=True)]
    for reader in readers:
        reader.start()
    look = {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color", "COLORTERM": "", "NO_COLOR": ""}
    arguments = mock.patch.multiple(sys, argv=["vitpe", *command.split()], stdout=streams[0], stderr=streams[1])
    with arguments, mock.patch.dict(os.environ, look):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    for stream in streams:
        stream.close()
    for reader in readers:
        reader.join()
    for master in masters:
        os.close(master)
    stdout, stderr = (shown(text.decode()) for text in written)
    return f"$ vitpe {command}\n[exit {code}]\n[stdout]\n{stdout}[stderr]\n{stderr}\n"


def _read(descriptor: int, into: bytearray) -> None:
    try:
        while part := os.read(descriptor, 65536):
            into += part
    except OSError:
        return  # the other end is closed


def shown(text: str) -> str:
    """What stays of a terminal's output; ESC is written as \\e."""
    text = re.sub(r"\x1b\[(\?\d+[hl]|\d*[ABKJ])", "", text)
    lines = [
        line for line in re.split(r"\r\n|[\r\n]", text) if line and "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in line
    ]
    return "".join(f"{line}\n" for line in lines).replace("\x1b", "\\e")


def pixels_hash(path: Path) -> str:
    with Image.open(path) as image:
        array = np.asarray(image)
    return f"{array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run one after the other: faces, a run, and a history."""
    folder = tmp_path_factory.mktemp("golden")
    write_run(folder / "history", num_frames=6, width=48)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    return folder


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="session")
def run(folder: Path) -> tuple[str, str]:
    """A run in `runs/1`, faces in `faces`; what the commands that made them wrote."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return in_pipe("draw faces --num-valid 48 --num-test 16"), in_pipe(TRAIN)
    finally:
        os.chdir(before)


FACES = "faces/img_align_celeba"
COMMANDS = {
    "eval": "eval --data faces --device cpu",
    "eval-csv": "eval runs/1 --data faces --format csv --sort lift --device cpu",
    "eval-test": "eval runs/1 --data faces --split test --thresholds 0.3 --device cpu",
    "eval-compare": "eval --compare runs/1/ckpts/step-0000000.safetensors runs/1 --data faces --device cpu",
    "predict": f"predict {FACES}/000001.jpg --device cpu",
    "predict-csv": f"predict {FACES}/000001.jpg {FACES}/000002.jpg --format csv --attributes Smiling,Male --device cpu",
    "predict-damaged": f"predict {FACES}/000002.jpg broken.jpg missing.jpg --top 3 --device cpu",
    "viz-pe": "viz-pe history --out pictures --no-stills",
    "resume": "train --resume --device cpu",
}


@pytest.mark.usefixtures("same_versions")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_in_a_pipe(run: tuple[str, str], name: str) -> None:
    check(f"{name}.pipe.txt", normalized(in_pipe(COMMANDS[name])))


@pytest.mark.usefixtures("same_versions")
@pytest.mark.parametrize("name", ["eval", "eval-compare", "predict", "predict-damaged", "viz-pe", "resume"])
def test_a_command_on_a_terminal(run: tuple[str, str], name: str) -> None:
    check(f"{name}.terminal.txt", normalized(on_terminal(COMMANDS[name])))


@pytest.mark.usefixtures("same_versions")
def test_training_and_drawing(run: tuple[str, str]) -> None:
    check("train.pipe.txt", normalized("".join(run)))


@pytest.mark.usefixtures("same_versions")
def test_training_on_a_terminal(run: tuple[str, str]) -> None:
    command = TRAIN.replace("--steps 20", "--steps 4 --set train.num_evals=2") + " --run terminal"
    check("train.terminal.txt", normalized(on_terminal(command)))


@pytest.mark.parametrize(("name", "place"), [("pipe", in_pipe), ("terminal", on_terminal)])
def test_help(name: str, place: Callable[[str], str]) -> None:
    commands = ["--help", *(f"{name} --help" for name in ("train", "eval", "predict", "viz-pe", "draw", "export"))]
    check(f"help.{name}.txt", "".join(map(place, commands)))


WRONG = """\
--wrong
wrong
train extra
train --preset huge
train --steps none
train --steps 0
train --steps -3 --device cpu
train --epochs -1
train --batch-size 0
train --num-train 0
train --seed -1
train --keep some
train --store shelf
train --set depth=3
train --set model.depht=3
train --set model.depth
train --set model.depth=deep
train --set model.num_heads=7
train --set model.img_size=[200,176]
train --set train.precision=fp8
train --device tpu
train --device cuda:99
train --labels labels.csv
train --data nowhere --run other
train --init nowhere.safetensors
train --run runs/1
train --config nowhere
train --config runs/1 --resume
train --config runs/1/config.json --preset base
train --resume --run nowhere
train --resume --preset base
train --resume --seed 5
eval nowhere
eval runs runs
eval --compare runs
eval --split all
eval --thresholds high
eval --thresholds 1.5
eval --sort beauty
eval --criterion mean
eval --format yaml
predict
predict faces/img_align_celeba --checkpoint nowhere
predict nowhere.jpg
predict faces/img_align_celeba --attributes Smile
predict faces/img_align_celeba --threshold 2
predict faces/img_align_celeba --top 0
viz-pe nowhere
viz-pe --grid 3
viz-pe --grid 12x12
viz-pe --cmap rainbowish
viz-pe --size 1
viz-pe --frame-ms 0
viz-pe --format bmp
draw
draw faces
draw empty --num-test 0
export nowhere
"""


def test_wrong_usage(run: tuple[str, str]) -> None:
    check("wrong-usage.txt", "".join(normalized(in_pipe(command)) for command in WRONG.splitlines()))


def check_losses(name: str, folder: Path) -> None:
    """Of each step, to a millionth."""
    found = {row["step"]: float(row["loss"]) for row in log_rows(folder)}
    path = GOLDEN / f"losses-{name}.json"
    if RECORDING:
        path.write_text(json.dumps(found, indent=1) + "\n")
    recorded = json.loads(path.read_text())
    assert found.keys() == recorded.keys()
    assert found == {step: pytest.approx(loss, abs=1e-6) for step, loss in recorded.items()}


@pytest.mark.usefixtures("same_versions")
def test_losses_of_tiny(run: tuple[str, str]) -> None:
    check_losses("tiny", Path("runs/1"))


@pytest.mark.usefixtures("same_versions")
def test_losses_of_laptop() -> None:
    command = TRAIN.replace("--num-valid 32 --batch-size 16", "--num-valid 8 --batch-size 4 --preset laptop")
    done = call_vitpe(*command.split(), "--set=train.num_evals=1", "--run=laptop")
    assert done.code == 0, done.stderr
    check_losses("laptop", Path("laptop"))


@pytest.mark.usefixtures("same_versions")
def test_pictures() -> None:
    done = call_vitpe("viz-pe", "history", "--out", "hashed", "--html", "--size", "480")
    assert done.code == 0, done.stderr
    files = sorted(Path("hashed").iterdir())
    check(
        "pictures.txt",
        "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}\n" for path in files),
    )


@pytest.mark.usefixtures("same_versions")
def test_crops(run: tuple[str, str]) -> None:
    """Of images of every kind, what the model sees."""
    images = dict(drawn_images(Path(FACES) / "000001.jpg"))
    Path("kinds").mkdir()
    for name, data in images.items():
        (Path("kinds") / name).write_bytes(data)
    done = call_vitpe("predict", "kinds", "--save-crops", "crops", "--format", "jsonl", "--top", "1")
    answers = [f"{record['file']} {record.get('error', '')}" for record in map(json.loads, done.stdout.splitlines())]
    crops = [f"{path.name} {pixels_hash(path)}" for path in sorted(Path("crops").iterdir())]
    check("crops.txt", "\n".join([*answers, *crops, done.stderr]))


@pytest.mark.usefixtures("same_versions")
def test_drawn_faces(run: tuple[str, str]) -> None:
    paths = sorted(Path(FACES).iterdir())[:8]
    check("faces.txt", "".join(f"{path.name} {pixels_hash(path)}\n" for path in paths))


def drawn_images(face: Path) -> Iterator[tuple[str, bytes]]:
    """A drawn face as files of every kind, by name."""
    with Image.open(face) as opened:
        image = opened.convert("RGB")

    def encoded(kind: Image.Image, suffix: str, **options: object) -> bytes:
        file = io.BytesIO()
        kind.save(file, suffix, **options)
        return file.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    deep = (np.asarray(image.convert("L"), np.uint32) * 257).astype(np.uint16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    yield "plain.jpg", encoded(image, "JPEG", quality=90)
    yield "progressive.jpg", encoded(image, "JPEG", progressive=True)
    yield "grey.jpg", encoded(image.convert("L"), "JPEG")
    yield "cmyk.jpg", encoded(image.convert("CMYK"), "JPEG")
    yield "turned.jpg", encoded(image, "JPEG", exif=turned)
    yield "cut.jpg", encoded(image, "JPEG")[:1500]
    yield "wide.jpg", encoded(image.resize((640, 300)), "JPEG")
    yield "small.png", encoded(image.resize((44, 52)), "PNG")
    yield "plain.png", encoded(image, "PNG")
    yield "alpha.png", encoded(image.convert("RGBA"), "PNG")
    yield "palette.png", encoded(image.quantize(16), "PNG")
    yield "bits.png", encoded(image.convert("1"), "PNG")
    yield "deep.png", encoded(Image.fromarray(deep), "PNG")
    yield "profile.png", encoded(image, "PNG", icc_profile=profile)
    yield "plain.webp", encoded(image, "WEBP", lossless=True)
    yield "plain.bmp", encoded(image, "BMP")
