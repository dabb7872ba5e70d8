"""What is said of a learning curve, on results that are known, and of a run that is there already."""

from pathlib import Path

import pytest

from tests.benchmarks import learning_curve, runs
from tests.helpers import tiny_options


def known() -> learning_curve.Results:
    """Errors that fall as n^-0.5 at the best epochs, which are 8 of 100 images and 4 of more."""
    best = {100: 8.0, 400: 4.0, 1600: 4.0}
    return {
        (size, epochs): dict.fromkeys(learning_curve.SCORES, 1 - size**-0.5 - (epochs != best[size]) * 0.01)
        for size in best
        for epochs in (2.0, 4.0, 8.0)
    }


def test_a_power_law_is_found() -> None:
    a, b = learning_curve.power_law([100, 400, 1600], [0.2, 0.1, 0.05])
    assert (a, b) == (pytest.approx(2), pytest.approx(0.5))


def test_what_is_said() -> None:
    text = learning_curve.report(known())
    assert text.splitlines()[:3] == [
        "| images | 2 epochs | 4 epochs | 8 epochs |",
        "| --- | --- | --- | --- |",
        "| 100 | 0.8900 / 0.890 | 0.8900 / 0.890 | 0.9000 / 0.900 |",
    ]
    assert "accuracy: best after 8 of 100, 4 of 400, 4 of 1,600" in text
    assert "1 - score ~ n^-0.500; extrapolated to 162,770 images: 0.9975" in text
    assert "the best is the first or last number of epochs of [100]: try others" in text


def test_a_run_is_trained_once(celeba: Path, tmp_path: Path) -> None:
    options = [*tiny_options(celeba), "--set", "train.num_evals=1"]
    run = runs.trained(tmp_path / "run", *options)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    scores = runs.last_scores(run)
    assert 0 <= scores["accuracy"] <= 1
    assert runs.last_scores(runs.trained(run, *options)) == scores
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
