"""Commands that are wrong: each is answered by one fact with the value, one hint and an exit code, and no traceback."""

import os

import pytest

import vitpe.inference.evaluate
import vitpe.reporting.predict_table
import vitpe.training.train
import vitpe.viz.visualize  # noqa: F401
from tests.fuzz.options import REGRESSIONS, Tally, bench
from tests.helpers.in_process import call_vitpe
from vitpe.config import RunConfig, with_values
from vitpe.data.drawn_faces import DrawnFaces
from vitpe.errors import UsageError

LONG = "a" * 300


@pytest.mark.parametrize(
    ("arguments", "fact", "hint"),
    [
        (["train", "--epochs", "abc"], "--epochs 'abc'", "expected a number; see vitpe train --help"),
        (["train", "--steps", "1.5"], "--steps '1.5'", "expected a whole number"),
        (["train", "--steps", "9" * 5000], "--steps '99", "expected a whole number"),
        (["train", "--stepz", "3"], "No such option: --stepz", "see vitpe train --help"),
        (["train", "--set", "train.lr=3"], "unknown key 'train.lr'", "did you mean train.muon_lr? there are train."),
        (["train", "--set", "batch_size=3"], "unknown key 'batch_size'", "did you mean train.batch_size? there"),
        (["train", "--set", "zzz=3"], "unknown key 'zzz'", "there are model.img_size, "),
        (["train", "--set", "model.depth=abc"], 'model.depth is "abc"', "expected a whole number"),
        (["train", "--set", "model.depth=true"], "model.depth is true", "expected a whole number"),
        (["train", "--set", "model.img_size=[[1,2],3]"], "model.img_size is [[1, 2], 3]", "expected a list of 2, each"),
        (["train", "--set", f"model.img_size={'[' * 100_000}"], 'model.img_size is "[[', "expected a list of 2"),
        (["train", "--set", f"{LONG}={LONG}"], "unknown key 'aaa", "there are"),
        (["train", "--set", f"model.depth={'9' * 5000}"], 'model.depth is "99', "expected a whole number"),
        (["train", "--set", "train.batch_size"], "--set 'train.batch_size' has no '='", ""),
        (["train", "--set", "train.batch=8"], "unknown key 'train.batch'", ""),
        (["train", "--set", "train.batch_size=eight"], 'train.batch_size is "eight"', ""),
        (["train", "--set", "model.img_size=[1,2"], 'model.img_size is "[1,2"', ""),
        (["train", "--preset", "huge"], "unknown preset 'huge'", "presets are tiny, laptop"),
        (["train", "--batch-size", "0"], "batch_size is 0", ""),
        (["train", "--epochs", "inf"], "epochs is Infinity", "it must be above 0 and at most 1,000,000"),
        (["train", "--epochs", "nan"], "epochs is NaN", "it must be above 0"),
        (["train", "--seed", str(2**64)], "seed is 18446744073709551616", "it must be at least 0 and at most 9,22"),
        (["train", "--num-train", "3000000000"], "num_train is 3000000000", "it must be at least 1 and at most"),
        (["train", "--num-train", "1000000000"], "1,000,000,000 drawn faces were asked", "ask for 1 to 1,000,000"),
        (["eval", "--split", "nope"], "--split 'nope'", "expected one of 'train', 'valid', 'test'; see vitpe eval"),
        (["eval", "--compare", "one"], "1 checkpoint named", "name two: vitpe eval --compare A B"),
        (["eval", "a", "b"], "2 checkpoints named", "name one, or compare two: vitpe eval --compare A B"),
        (["eval", "--thresholds", "nan"], "threshold nan is not a probability", "choose one from 0 to 1, or tune"),
        (["predict", "x.jpg", "--top", "0"], "--top 0", "it must be at least 1"),
        (["predict", "x.jpg", "--threshold", "nan"], "--threshold nan", "it must be at least 0 and at most 1"),
        (["draw", "f", "--num-train", "-5"], "num_train is -5", "it must be at least 0 and at most 1,000,000"),
        (["draw", "f", "--seed", str(2**70)], "seed is 1180591620717411303424", "it must be at least 0"),
        (["draw", "f", "--num-test", "0"], "no faces are asked for", "ask for some: --num-test 8"),
    ],
)
def test_wrong_usage(arguments, fact, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = call_vitpe(*arguments)
    assert (called.code, called.out) == (2, b"")
    (first, second) = called.stderr.splitlines()
    assert first.startswith(f"error: {fact}")
    assert second.startswith(f"hint: {hint}")
    assert len(first) < 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("model.mlp_ratio", value) for value in (0, -1, float("nan"), 1e9, 1e-9, 10**400)),
        *(("model.img_size", value) for value in ([200_000, 16], [0, 16], [16, -16], [True, 16], {"a": 1})),
        *(("model.in_chans", value) for value in (1, 10**6)),
        *(("model.depth", value) for value in (10**6, -1)),
        *(("model.stem_width", value) for value in (10**9, -1)),
        *(("train.adamw_lr", value) for value in (1e300, 0, -1, float("inf"))),
        *(("train.muon_lr", value) for value in (1e300, float("nan"))),
        *(("train.num_checkpoints", value) for value in (10**12, 0)),
        *(("train.num_evals", value) for value in (10**12, 0)),
        *(("train.steps", value) for value in (10**12, 0, "many")),
        *(("train.batch_size", value) for value in (10**9, 0, None)),
        *(("train.compile", value) for value in (None, [], {}, 1)),
        *(("data.mean", value) for value in ([float("nan")] * 3, [1e300, 0, 0], [0, 0], 0.5)),
        *(("data.std", value) for value in ([0, 1, 1], [1e-300, 1, 1], [float("inf")] * 3)),
    ],
)
def test_numbers_out_of_range(key, value):
    with pytest.raises(UsageError, match=key.partition(".")[2]) as caught:
        with_values(RunConfig(), {key: value})
    assert caught.value.hint


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", f"--run={LONG}"],
        ["train", "--resume", f"--run={LONG}"],
        ["train", "--data", LONG],
        ["train", "--data", ".", "--labels", LONG],
        ["train", "--init", LONG],
        ["eval", LONG],
        ["eval", f"{LONG}.safetensors"],
        ["viz-pe", LONG],
        ["predict", "x.jpg", "--checkpoint", LONG],
        ["draw", LONG],
        ["export", LONG],
    ],
    ids=" ".join,
)
def test_names_that_are_too_long(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = call_vitpe(*arguments)
    assert called.code in (1, 2)
    assert [line.partition(":")[0] for line in called.stderr.splitlines()[-2:]] == ["error", "hint"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--run", "shut/run"],
        ["train", "--resume", "--run", "shut/run"],
        ["train", "--data", "shut/data"],
        ["train", "--data", "shut"],
        ["train", "--data", ".", "--labels", "shut.csv"],
        ["train", "--run", "run", "--init", "shut/x.safetensors"],
        ["eval", "shut/run"],
        ["viz-pe", "shut"],
        ["predict", "x.jpg", "--checkpoint", "shut/x.safetensors"],
        ["draw", "shut/faces"],
    ],
    ids=" ".join,
)
def test_what_may_not_be_read_or_written(arguments, tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir(mode=0)
    (tmp_path / "shut.csv").write_text("file,Smiling\n1.jpg,1\n")
    (tmp_path / "shut.csv").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    DrawnFaces("train", 1)  # what is read and imported late may lie where nobody may look
    os.seteuid(65534)
    try:
        called = call_vitpe(*arguments)
    finally:
        os.seteuid(0)
    assert called.code in (1, 2)
    assert [line.partition(":")[0] for line in called.stderr.splitlines()[-2:]] == ["error", "hint"]


def test_options_that_are_paths_know_the_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["train", "--run=~/x", "--resume"],
        ["train", "--data=~/x"],
        ["train", "--data", ".", "--labels=~/x"],
        ["train", "--set", "data.data=~/x"],
        ["predict", "x.jpg", "--checkpoint=~/x"],
        ["train", "--resume", "--run=~nobody-of-this-name/x"],
    ):
        called = call_vitpe(*arguments, HOME=str(tmp_path / "home"))
        assert called.code in (1, 2)
        assert ("nobody-of" in str(arguments)) == ("~" in called.stderr.splitlines()[-2]), called.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_that_nobody_would_give():
    """A few of the cases of `python -m tests.fuzz.options`."""
    tally = Tally()
    with bench() as made:
        for case in (*REGRESSIONS, *range(100_000, 100_030)):
            made.run(case, tally)
    assert not tally.failures
    assert {code for name in tally.counts for code in [name.split()[1]]} >= {"0", "1", "2"}
