"""What shells offer after an option, asked for as bash, zsh and fish ask; and that each of it is taken."""

import json
import os
import shutil
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.helpers.in_process import call_vitpe
from vitpe.celeba import ATTRIBUTES
from vitpe.cli.completion import COLOUR_MAPS, DEVICES, choices, settings
from vitpe.cli.trackers import make_trackers
from vitpe.config import PRESETS, RunConfig, parse_settings, with_values
from vitpe.fields import to_json
from vitpe.metrics.names import METRICS, SORT_KEYS
from vitpe.reporting.metric_formats import sort_key
from vitpe.runs.metadata import KEY


def bash(line: str) -> list[str]:
    """What bash is given for the last word of a line."""
    words = line.split(" ")
    asked = {"_VITPE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return call_vitpe(**asked).stdout.split()


def fish(line: str) -> list[str]:
    asked = {"_VITPE_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": line}
    return call_vitpe(**asked, _TYPER_COMPLETE_FISH_ACTION="get-args").stdout.split()


def zsh(line: str) -> list[str]:
    text = call_vitpe(_VITPE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line).stdout.strip()
    if text == "_files":
        return []
    assert text.startswith("_arguments '*: :((") and text.endswith("))'")
    return [line.strip('"') for line in text.removeprefix("_arguments '*: :((").removesuffix("))'").split("\n")]


SHELLS = pytest.mark.parametrize("offered", [bash, zsh, fish], ids=lambda shell: shell.__name__)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@SHELLS
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vitpe train --preset ", list(PRESETS)),
        ("vitpe train --keep ", ["auto", "all", "pos_embed"]),
        ("vitpe train --keep=p", ["pos_embed"]),
        ("vitpe train --store ", ["auto", "device", "memory", "disk"]),
        ("vitpe train --device c", ["cpu", "cuda"]),
        ("vitpe predict --device m", ["mps"]),
        ("vitpe train --log ", ["tensorboard", "wandb"]),
        ("vitpe train --set model.p", ["model.patch_size=", "model.pos_embed="]),
        ("vitpe train --set train.see", ["train.seed=", "train.seed=0"]),
        ("vitpe train --set model.img", ["model.img_size="]),
        ("vitpe train --set train.comp", ["train.compile=auto", "train.compile=on", "train.compile=off"]),
        ("vitpe train --set data.fl", ["data.flip=true", "data.flip=false"]),
        ("vitpe train --set zzz", []),
        ("vitpe train --attributes ", list(ATTRIBUTES)),
        ("vitpe train --attributes Smiling,Ma", ["Smiling,Male"]),
        ("vitpe train --attributes Male,Ma", []),
        ("vitpe train --labels labels.csv --attributes Ma", []),
        ("vitpe train --balance Blond_Hair,Ma", ["Blond_Hair,Male"]),
        ("vitpe eval --attributes Mal", ["Male"]),
        ("vitpe eval --by Young,Mal", ["Young,Male"]),
        ("vitpe predict face.jpg --attributes Mal", ["Male"]),
        ("vitpe eval --sort ", list(SORT_KEYS)),
        ("vitpe eval --by Male --sort g", ["gap"]),
        ("vitpe eval --compare a b --sort d", ["difference"]),
        ("vitpe eval --compare a b --by Male --sort ", ["difference"]),
        ("vitpe eval --thresholds ", ["tune"]),
        ("vitpe eval --split ", ["train", "valid", "test"]),
        ("vitpe eval --format ", ["table", "json", "csv"]),
        ("vitpe viz-pe --cmap vi", ["viridis"]),
        ("vitpe export --format ", ["onnx", "hf", "timm", "safetensors"]),
        ("vitpe draw new --format ", ["celeba", "parquet", "webdataset"]),
        ("vitpe train --data ", []),  # names of files, which shells offer themselves
        ("vitpe eval ru", []),
    ],
)
def test_what_is_offered(offered, line, expected, elsewhere):
    assert offered(line) == expected


@pytest.mark.parametrize("offered", [zsh, fish])
def test_values_of_a_setting_are_offered_where_the_shell_takes_it_for_one_word(offered):
    assert offered("vitpe train --set train.keep=") == [f"train.keep={value}" for value in choices("train.keep")]
    assert offered("vitpe train --set data.flip=f") == ["data.flip=false"]
    assert offered("vitpe train --set train.steps=") == ["train.steps=", "train.steps=null"]
    assert offered("vitpe train --set zzz=") == []


@SHELLS
def test_attributes_are_those_of_the_model(offered, elsewhere):
    write_names(elsewhere / "best.safetensors", ["race=Black", "Größe", "$(touch x)", "two words", "a'b", 3])
    assert offered("vitpe eval best.safetensors --attributes ") == ["race=Black", "Größe"]
    assert offered(f"vitpe predict face.jpg --checkpoint {elsewhere} --attributes G") == ["Größe"]
    write_names(elsewhere / "runs" / "1" / "best.safetensors", ["Round"])
    assert offered("vitpe eval --attributes Ro") == ["Round"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "file,prob:Round,label:Round,label:two words,label:Flat,split\na.jpg,0.5,1,0,1,valid\n"),
        ("a.csv", '\ufefffile,"label:Round",label:Flat\n'),
        ("a.jsonl", json.dumps({"file": "a.jpg", "probs": {"Round": 0.5}, "labels": {"Round": 1, "Flat": 0}}) + "\n"),
    ],
)
def test_attributes_are_those_of_answers(name, text, elsewhere):
    (elsewhere / name).write_text(text)
    assert bash(f"vitpe eval --from-answers {name} --by ") == ["Round", "Flat"]
    assert bash(f"vitpe eval --from-answers {name} --attributes Flat,R") == ["Flat,Round"]
    for damaged in ("", "{", "[1]", '{"labels": 3}', "\0"):
        (elsewhere / name).write_text(damaged)
        assert set(bash(f"vitpe eval --from-answers {name} --by Mal")) <= {"Male"}


@pytest.mark.parametrize("data", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"no tensors"])
def test_a_damaged_model_is_no_traceback(data, elsewhere):
    (elsewhere / "best.safetensors").write_bytes(data)
    assert bash("vitpe eval best.safetensors --attributes Mal") == ["Male"]


def write_names(path, names):
    """A checkpoint of anyone's that says what its answers are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"head.bias": np.zeros(1, np.float32)}, path, {KEY: json.dumps({"attributes": names})})


def test_what_is_offered_is_taken():
    given = to_json(RunConfig())
    assert settings("") == [
        f"{section}.{name}=" for section, values in given.items() if isinstance(values, dict) for name in values
    ]
    for key in settings(""):
        section, name = key.removesuffix("=").split(".")
        for setting in set(settings(key)) - {key}:
            value = parse_settings([setting])
            assert to_json(with_values(RunConfig(), value))[section][name] == value[f"{section}.{name}"]
    assert {metric for metric in SORT_KEYS if sort_key(metric) == metric} == {"attribute", "threshold", *METRICS}
    assert set(COLOUR_MAPS) <= set(mpl.colormaps)
    assert {torch.device(name).type for name in DEVICES} == set(DEVICES)
    assert [tracker.name for tracker in make_trackers(bash("vitpe train --log "))][1:] == ["tensorboard", "wandb"]


def test_nothing_is_imported_that_computes(elsewhere):
    write_names(elsewhere / "best.safetensors", ["Round"])
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); import vitpe.__main__ as m; m.main()"
    for line in ("vitpe eval best.safetensors --attributes R", "vitpe train --set train.k", "vitpe eval --sort g"):
        asked = {"_VITPE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        run = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
        modules = set(run.stdout.split())
        assert "vitpe.cli.completion" in modules, run.stderr
        assert not modules & {"torch", "numpy", "matplotlib", "PIL"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_itself(elsewhere):
    (elsewhere / "vitpe").write_text(f'#!/bin/sh\nexec {sys.executable} -m vitpe "$@"\n')
    (elsewhere / "vitpe").chmod(0o755)
    script = """source <(_VITPE_COMPLETE=source_bash vitpe)
    COMP_WORDS=(vitpe train --keep p) COMP_CWORD=3
    $(complete -p vitpe | sed -E 's/.*-F ([^ ]+).*/\\1/') vitpe p --keep
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{elsewhere}:{os.environ['PATH']}"}
    run = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["pos_embed"], run.stderr
