"""`eval --compare A B --by …`: its table, JSON and CSV say the same, at 80 columns, and what cannot be asked."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.helpers import train_tiny, write_celeba
from tests.helpers.in_process import call_vitpe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on images enough for groups of ten."""
    data = write_celeba(tmp_path_factory.mktemp("many"), num_train=16, num_valid=120)
    folder = tmp_path_factory.mktemp("two")
    for seed in (0, 1):
        train_tiny(data, folder / str(seed), train__seed=seed, train__steps=4 + 8 * seed)
    return folder / "0", folder / "1"


def test_json_and_csv_agree_with_eval_of_each(runs):
    called = call_vitpe("eval", "--compare", *runs, "--by", "Red,Green", "--format", "json")
    assert called.code == 0, called.stderr
    document = json.loads(called.stdout)
    assert (document["by"]["attributes"], document["by"]["min_count"]) == (["Red", "Green"], 10)
    alone = [json.loads(call_vitpe("eval", run, "--by", "Red,Green").stdout)["by"]["scores"] for run in runs]
    for attribute, first, second in zip(document["attributes"], *alone, strict=True):
        worst = attribute["worst_group"]
        assert (worst["first_group"], worst["second_group"]) == (first["worst_group"], second["worst_group"])
        for group, before, after in zip(attribute["groups"], first["groups"], second["groups"], strict=True):
            for rate in ("accuracy", "true_positive_rate", "false_positive_rate", "positive_rate"):
                assert (group[rate]["first"], group[rate]["second"]) == (before[rate], after[rate])
                if before[rate] is not None:
                    assert group[rate]["difference"] == pytest.approx(after[rate] - before[rate], abs=1e-12)
    table = call_vitpe("eval", "--compare", *runs, "--by", "Red,Green", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert len(rows) == 4 * (1 + 4 * 4)
    found = {(row["attribute"], row["group"], row["rate"]): row for row in rows}
    for attribute in document["attributes"]:
        for group in attribute["groups"]:
            row = found[attribute["attribute"], group["group"], "accuracy"]
            assert float(row["difference"]) == group["accuracy"]["difference"]
            assert row["exceeds"] == str(group["accuracy"]["exceeds"]).lower() or row["exceeds"] == str(
                group["accuracy"]["exceeds"]
            )
        assert float(found[attribute["attribute"], "", "accuracy"]["first"]) == attribute["worst_group"]["first"]


def test_the_table_fits_80_columns(runs):
    called = call_vitpe("eval", "--compare", *runs, "--by", "Red,Green", "--format", "table", "--sort", "difference")
    assert called.code == 0, called.stderr
    lines = called.stdout.splitlines()
    rows = lines[5:-4]
    assert max(map(len, rows)) <= 80
    names = [line.split()[0] for line in rows if line and not line.startswith((" ", "accuracy", "─"))]
    document = json.loads(call_vitpe("eval", "--compare", *runs, "--by", "Red,Green").stdout)
    gains = {each["attribute"]: each["worst_group"]["difference"] for each in document["attributes"]}
    assert [gains[name] for name in names] == sorted(gains.values(), reverse=True)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--by", "Red", "--sort", "gap"], "--compare with --by cannot sort by gap"),
        (["--by", "Rde"], "--by Rde: there are no labels of that name"),
        (["--by", "Red", "--answers", "a.csv"], "--compare has no --answers"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(runs, options, error):
    called = call_vitpe("eval", "--compare", *runs, *options, "--format", "table")
    assert called.code == 2
    assert f"error: {error}" in called.stderr
