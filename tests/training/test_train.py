"""The training loop: it starts where it must, learns, repeats itself bit for bit, and stops when told."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.helpers import (
    SMALL,
    Recorder,
    contents,
    log_rows,
    tiny_config,
    train_tiny,
    write_celeba,
)
from vitpe.config import PRESETS, TrainConfig
from vitpe.data.batches import Batches
from vitpe.data.sources import open_samples
from vitpe.data.storage import ImageStore
from vitpe.errors import UsageError, VitpeError
from vitpe.model.inputs import PixelClassifier, classify_split
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import load_checkpoint, read_tensors
from vitpe.runs.folder import TIMING_COLUMNS, RunFolder
from vitpe.runs.metadata import read_info
from vitpe.runs.state import load_state
from vitpe.training.optimizer import ExponentialMovingAverage, learning_rate_factor, make_optimizers
from vitpe.training.plan import Plan
from vitpe.training.train import train

CPU = torch.device("cpu")


def weights(run: Path, name: str = "best.safetensors") -> dict[str, torch.Tensor]:
    return read_tensors(run / name)


def test_a_run_leaves_what_it_says(trained_run: Path, celeba: Path) -> None:
    steps = [0, 2, 5, 8, 12]
    assert set(contents(trained_run)) == {
        *(f"ckpts/step-{step:07d}.safetensors" for step in steps),
        *("best.safetensors", "config.json", "metrics.csv", "last/state.safetensors", ".lock"),
    }
    config = RunFolder(trained_run).read_config()
    assert config == replace(
        tiny_config(celeba, model__num_classes=4), train=replace(tiny_config(celeba).train, keep="all")
    )
    log = log_rows(trained_run)
    assert [int(row["step"]) for row in log] == list(range(1, 13))
    assert [row["step"] for row in log if row["valid_accuracy"]] == ["5", "8", "12"]
    assert [int(row["images_seen"]) for row in log] == list(range(8, 97, 8))
    assert [float(row["epoch"]) for row in log] == pytest.approx([step / 3 for step in range(1, 13)], abs=1e-4)
    assert all(float(row[column]) >= 0 for row in log for column in TIMING_COLUMNS)
    for step in steps:
        model, info = load_checkpoint(RunFolder(trained_run).checkpoint(step))
        assert (info.step, info.images_seen, info.data_source) == (step, 8 * step, "celeba")
        scored = {row["step"]: row["valid_accuracy"] for row in log}.get(str(step), "")
        assert ("" if info.valid is None else str(info.valid["mean_accuracy"])) == scored
        assert (model.pos_embed == 0).all() == (step == 0)
    best = max(log, key=lambda row: float(row["valid_accuracy"] or 0))
    assert read_info(trained_run / "best.safetensors").step == int(best["step"])


def test_the_first_loss_is_ln_2(trained_run: Path) -> None:
    """The head starts at zero: every probability is one half."""
    assert float(log_rows(trained_run)[0]["loss"]) == pytest.approx(math.log(2), abs=1e-6)


def test_it_overfits_eight_images(tmp_path: Path) -> None:
    data = write_celeba(tmp_path / "celeba", num_train=8, num_valid=8)
    values = {"train__steps": 100, "train__adamw_lr": 0.01, "train__num_evals": 1}
    recorder = train_tiny(data, tmp_path / "runs", **values)
    assert recorder.losses[100] < 0.05
    model, info = load_checkpoint(RunFolder(tmp_path / "runs").checkpoint(100))
    samples = open_samples(tiny_config(data).data, "train", info.model.img_size)
    batches = Batches(ImageStore(samples, CPU), info.model.img_size, 8)
    logits, labels = classify_split(PixelClassifier(model, info.mean, info.std), batches.once())
    assert ((logits > 0) == labels).all()


def test_the_same_seed_gives_the_same_run_and_another_does_not(celeba: Path, trained_run: Path, tmp_path: Path) -> None:
    train_tiny(celeba, tmp_path / "same")
    train_tiny(celeba, tmp_path / "other", train__seed=1)
    same, first = contents(tmp_path / "same", (".lock",)), contents(trained_run, (".lock",))
    assert same.keys() == first.keys()
    assert [name for name in same if same[name] != first[name]] in ([], ["metrics.csv"])
    stable = [{key: row[key] for key in row if key not in TIMING_COLUMNS} for row in log_rows(tmp_path / "same")]
    assert stable == [{key: row[key] for key in row if key not in TIMING_COLUMNS} for row in log_rows(trained_run)]
    for step in (0, 12):
        name = f"ckpts/step-{step:07d}.safetensors"
        a, b = weights(trained_run, name), weights(tmp_path / "other", name)
        assert not torch.equal(a["patch_embed.proj.weight"], b["patch_embed.proj.weight"])


def test_where_images_wait_changes_nothing(celeba: Path, trained_run: Path, tmp_path: Path) -> None:
    for store in ("memory", "disk"):
        train_tiny(celeba, tmp_path / store, data__store=store)
        for name in ("best.safetensors", "ckpts/step-0000012.safetensors"):
            assert (tmp_path / store / name).read_bytes() == (trained_run / name).read_bytes()


def test_a_history_of_position_embeddings_only(celeba: Path, trained_run: Path, tmp_path: Path) -> None:
    train_tiny(celeba, tmp_path / "runs", train__keep="pos_embed")
    for path in RunFolder(tmp_path / "runs").checkpoints.iterdir():
        small, whole = read_tensors(path), read_tensors(trained_run / "ckpts" / path.name)
        assert set(small) == {"pos_embed", "patch_embed.proj.weight"}
        assert all(torch.equal(small[name], whole[name]) for name in small)
    assert (tmp_path / "runs/best.safetensors").read_bytes() == (trained_run / "best.safetensors").read_bytes()


def test_weights_to_start_from(celeba: Path, trained_run: Path, tmp_path: Path) -> None:
    config = tiny_config(celeba, train__steps=1)
    train(config, tmp_path / "runs", CPU, Recorder(), init=trained_run / "best.safetensors")
    assert torch.equal(
        weights(tmp_path / "runs", "ckpts/step-0000000.safetensors")["pos_embed"], weights(trained_run)["pos_embed"]
    )


@pytest.mark.parametrize(
    ("num_steps", "num_checkpoints", "num_evals"),
    [(1, 60, 10), (7, 60, 3), (59, 60, 10), (5000, 60, 10), (100, 1, 1), (100, 2, 5)],
)
def test_the_plan_has_the_first_and_the_last_step(num_steps: int, num_checkpoints: int, num_evals: int) -> None:
    config = TrainConfig(steps=num_steps, num_checkpoints=num_checkpoints, num_evals=num_evals, batch_size=10)
    plan = Plan.of(config, num_images=25)
    assert (plan.num_steps, plan.batch_size, plan.steps_per_epoch) == (num_steps, 10, 2)
    assert {0, num_steps} <= plan.checkpoints <= set(range(num_steps + 1))
    assert num_steps in plan.evals
    assert num_steps in plan.logs
    assert 0 not in plan.evals | plan.logs
    assert len(plan.checkpoints) <= num_checkpoints + 1
    assert len(plan.evals) == min(num_evals, num_steps)
    assert plan.evals <= plan.checkpoints or num_evals > num_checkpoints
    if num_steps > 10 * num_checkpoints > 10:
        gaps = np.diff(sorted(plan.checkpoints))
        assert len(plan.checkpoints) == num_checkpoints + 1
        assert gaps[0] < gaps[-1]


def test_a_preset_sees_no_more_images_of_more() -> None:
    """13 epochs of up to 14,000, as measured; of more as many images, each less often."""
    tiny = PRESETS["tiny"]
    assert [tiny.epochs_for(number) for number in (1, 4_096, 13_954, 14_000)] == [13] * 4
    assert tiny.epochs_for(28_000) == 6.5
    for preset in PRESETS.values():
        for number in (preset.num_images + 1, 162_770, 5_000_000):
            plan = Plan.of(replace(preset.train, epochs=preset.epochs_for(number)), number)
            images = plan.num_steps * plan.batch_size
            assert images == pytest.approx(min(number, preset.num_images) * preset.epochs, rel=0.01)


def test_epochs_are_the_presets_for_so_many_images(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], epochs=4, num_images=12))
    recorder = Recorder()
    open_ended = tiny_config(celeba, train__steps=None)
    assert open_ended.train.epochs is None
    train(open_ended, tmp_path / "run", CPU, recorder)
    stored = RunFolder(tmp_path / "run").read_config()
    assert (stored.train.epochs, stored.train.steps) == (2.0, None)
    assert log_rows(tmp_path / "run")[-1]["step"] == "6"  # of 24 images in batches of 8
    said = [note for note in recorder.notes if note.startswith("epochs: ")]
    assert said == ["epochs: 2 of 24 images, as long as 4 of 12; for longer: --epochs N, or --minutes N"]
    # What was chosen stays, whatever presets say later; what is given wins.
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], epochs=8))
    assert train(stored, tmp_path / "run", CPU, Recorder(), resume=True).step == 6
    recorder = Recorder()
    assert train(stored, tmp_path / "repeated", CPU, recorder).step == 6
    assert train(tiny_config(celeba, train__steps=None, train__epochs=1), tmp_path / "given", CPU, recorder).step == 3
    assert not [note for note in recorder.notes if note.startswith("epochs: ")]
    assert train(tiny_config(celeba, train__steps=5), tmp_path / "steps", CPU, recorder).step == 5
    assert RunFolder(tmp_path / "steps").read_config().train.epochs is None


def test_a_plan_needs_an_end() -> None:
    with pytest.raises(ValueError, match="neither steps nor epochs"):
        Plan.of(TrainConfig(), num_images=10)


def test_the_plan_counts_epochs_in_whole_batches() -> None:
    plan = Plan.of(TrainConfig(epochs=2.5, batch_size=64), num_images=1000)
    assert (plan.steps_per_epoch, plan.num_steps) == (15, 38)
    assert Plan.of(TrainConfig(epochs=1, batch_size=64), num_images=10).batch_size == 10


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert factors[10:] == pytest.approx([(100 - step) / 90 for step in range(10, 100)])
    assert learning_rate_factor(0, 1, 0.05) == 1.0
    assert all(0 < learning_rate_factor(step, 7, 0.9) <= 1 for step in range(7))


def test_the_average_is_the_one_computed_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = ExponentialMovingAverage(model, decay=0.3)
    expected = 1.0
    for step, value in enumerate([2.0, -1.0, 4.0, 8.0, 0.5]):
        model.weight.data.fill_(value)
        average.set_step(step)
        average.update()
        decay = [1 / 10, 2 / 11, 3 / 12, 0.3, 0.3][step]
        expected = decay * expected + (1 - decay) * value
        assert average.tensors["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_muon_gets_the_blocks_matrices_and_nothing_else() -> None:
    model = VisionTransformer(SMALL)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices = {
        f"blocks.{block}.{layer}.weight"
        for block in (0, 1)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }

    def groups(config: TrainConfig) -> list[tuple[str, float, set[str]]]:
        return [
            (type(member).__name__, group["weight_decay"], {names[id(parameter)] for parameter in group["params"]})
            for member in make_optimizers(model, config).members
            for group in member.param_groups
        ]

    rest = set(names.values()) - matrices
    assert {"pos_embed", "cls_token", "head.weight", "patch_embed.proj.weight", "norm.bias"} <= rest
    assert groups(TrainConfig(weight_decay=0.3)) == [("Muon", 0.3, matrices), ("AdamW", 0.0, rest)]
    assert groups(TrainConfig(weight_decay=0.3, muon_lr=None)) == [("AdamW", 0.0, rest), ("AdamW", 0.3, matrices)]


def test_of_attribute_queries_muon_gets_the_two_maps() -> None:
    model = VisionTransformer(replace(SMALL, global_pool="queries"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, adamw = make_optimizers(model, TrainConfig(weight_decay=0.3)).members
    of_muon = {names[id(parameter)] for parameter in muon.param_groups[0]["params"]}
    assert {name for name in of_muon if name.startswith("query_pool.")} == {
        "query_pool.key.weight",
        "query_pool.value.weight",
    }
    rest = [
        (group["weight_decay"], names[id(parameter)]) for group in adamw.param_groups for parameter in group["params"]
    ]
    assert {(0.0, "query_pool.queries"), (0.0, "query_pool.head_weight")} <= set(rest)


def test_fixed_position_embeddings_are_not_trained() -> None:
    model = VisionTransformer(replace(SMALL, pos_embed="sincos"))
    members = make_optimizers(model, TrainConfig()).members
    trained = {id(parameter) for member in members for group in member.param_groups for parameter in group["params"]}
    assert id(model.pos_embed) not in trained
    assert len(trained) == len(list(model.parameters())) - 1


@pytest.mark.parametrize("muon_lr", [0.02, None])
def test_optimizer_state_goes_out_and_in(muon_lr: float | None) -> None:
    """A step after loading is the step that would have been; the expected state is what torch really makes."""
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 16, 24), torch.rand(4, 3).round()

    def step(model: VisionTransformer, optimizers: object) -> None:
        binary_cross_entropy_with_logits(model(images), labels).backward()
        optimizers.set_rates(0.5)  # type: ignore[attr-defined]
        optimizers.step()  # type: ignore[attr-defined]

    config = TrainConfig(muon_lr=muon_lr)
    model = VisionTransformer(SMALL)
    optimizers = make_optimizers(model, config)
    for _ in range(3):
        step(model, optimizers)
    assert all(
        group["lr"] == 0.5 * peak
        for m, peak in zip(optimizers.members, optimizers.peaks, strict=True)
        for group in m.param_groups
    )
    saved = {name: value.clone() for name, value in optimizers.state_tensors().items()}
    expected = optimizers.expected_state()
    assert {name: (value.shape, value.dtype) for name, value in saved.items()} == {
        name: (value.shape, value.dtype) for name, value in expected.items()
    }
    twin = VisionTransformer(SMALL)
    twin.load_state_dict(model.state_dict())
    loaded = make_optimizers(twin, config)
    loaded.load_state_tensors(saved)
    step(model, optimizers)
    step(twin, loaded)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())


def test_an_existing_run_is_refused_and_untouched(celeba: Path, trained_run: Path) -> None:
    before = contents(trained_run)
    times = {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")}
    with pytest.raises(UsageError, match="already holds a run") as caught:
        train_tiny(celeba, trained_run, train__seed=1)
    assert "--resume" in caught.value.hint
    assert contents(trained_run) == before
    assert {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")} == times


def test_a_diverging_run_says_so_and_keeps_what_was_good(celeba: Path, tmp_path: Path) -> None:
    with pytest.raises(VitpeError, match=r"loss became|not finite") as caught:
        train_tiny(celeba, tmp_path, train__steps=40, train__adamw_lr=1e30, train__muon_lr=None)
    assert caught.value.hint
    for path in (*RunFolder(tmp_path).checkpoints.iterdir(), *tmp_path.glob("best.safetensors")):
        load_checkpoint(path)
    load_state(RunFolder(tmp_path).state)


def test_a_batch_larger_than_the_data_is_all_of_it(celeba: Path, tmp_path: Path) -> None:
    train_tiny(celeba, tmp_path, train__batch_size=1000, train__steps=2)
    assert [row["images_seen"] for row in log_rows(tmp_path)] == ["24", "48"]
