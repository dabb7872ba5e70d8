"""Configurations: what is stored is what is read, and what does not fit is named."""

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitpe.config import (
    PRESETS,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    with_values,
)
from vitpe.errors import UsageError, VitpeError
from vitpe.fields import changed_fields, from_json, to_json

positive = st.floats(min_value=1e-300, max_value=1_000)
share = st.floats(min_value=0, max_value=1, exclude_max=True)
count = st.integers(min_value=1, max_value=100_000)
text = st.text(st.characters(exclude_categories=["Cs"]))
triple = st.tuples(share, share, share)
scale = st.floats(0.001, 10)


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    patch_size, num_heads = draw(st.integers(1, 64)), draw(st.integers(1, 16))
    stem_width = draw(st.integers(0, 64)) if patch_size % 8 == 0 else 0
    return ModelConfig(
        img_size=(patch_size * draw(st.integers(1, 40)), patch_size * draw(st.integers(1, 40))),
        patch_size=patch_size,
        num_classes=draw(st.integers(1, 100)),
        embed_dim=num_heads * 4 * draw(st.integers(1, 64)),
        depth=draw(st.integers(1, 48)),
        num_heads=num_heads,
        mlp_ratio=draw(st.floats(0.5, 8)),
        global_pool=draw(st.sampled_from(["token", "avg", "queries"])),
        pos_embed=draw(st.sampled_from(["learned", "sincos", "factorized", "none"])),
        rope=draw(st.sampled_from(["none", "axial", "mixed"])),
        drop_path_rate=draw(share),
        stem_width=stem_width,
    )


data_configs = st.builds(
    DataConfig,
    data=text,
    labels=st.none() | st.lists(text).map(tuple),
    num_train=st.none() | count,
    num_valid=st.none() | count,
    store=st.sampled_from(["auto", "device", "memory", "disk"]),
    mean=triple,
    std=st.tuples(scale, scale, scale),
    flip=st.booleans(),
)
train_configs = st.builds(
    TrainConfig,
    epochs=positive,
    steps=st.none() | count,
    batch_size=count,
    muon_lr=st.none() | positive,
    adamw_lr=positive,
    weight_decay=st.floats(0, 1_000),
    warmup_fraction=share,
    ema_decay=share,
    loss=st.sampled_from(["bce", "focal", "asymmetric"]),
    pos_weight=st.sampled_from(["auto", "none"]),
    label_smoothing=share,
    seed=st.integers(0, 2**63 - 1),
    num_checkpoints=count,
    num_evals=count,
    keep=st.sampled_from(["auto", "all", "pos_embed"]),
)
run_configs = st.builds(
    RunConfig, preset=st.sampled_from(sorted(PRESETS)), model=model_configs(), data=data_configs, train=train_configs
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=6,
)


@given(run_configs)
@settings(max_examples=60, deadline=None)
def test_json_round_trip(config: RunConfig) -> None:
    assert from_json(RunConfig, json.loads(json.dumps(to_json(config))), "test") == config
    assert with_values(config, {}) == config
    assert changed_fields(config, config) == []


def leaves() -> list[tuple[str, str]]:
    sections = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}
    return [(section, field.name) for section, kind in sections.items() for field in fields(kind)]


@given(st.sampled_from(leaves()), json_values)
@settings(max_examples=300, deadline=None)
def test_any_json_value_is_taken_or_refused_by_name(leaf: tuple[str, str], value: Any) -> None:
    section, name = leaf
    try:
        config = with_values(RunConfig(), {f"{section}.{name}": value}, "--set")
    except UsageError as error:
        assert error.exit_code == 2
        assert error.hint
        assert "\n" not in error.message
        return
    taken = getattr(getattr(config, section), name)
    expected = tuple(value) if isinstance(value, list) else value
    if isinstance(taken, tuple) and isinstance(value, str):  # one text for a list of one
        expected = (value,)
    assert taken == expected or math.isnan(taken)
    changed = {change.key for change in changed_fields(RunConfig(), config)}
    assert changed <= {f"{section}.{name}"}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"train.lr": 1}, "unknown key 'train.lr'"),
        ({"batch_size": 1}, "unknown key 'batch_size'"),
        ({"train": 1}, "unknown key 'train'"),
        ({"preset.x": 1}, "unknown key 'preset.x'"),
        ({"train.batch_size": "8"}, 'train.batch_size is "8"'),
        ({"train.batch_size": 8.0}, "train.batch_size is 8.0"),
        ({"train.batch_size": True}, "train.batch_size is true"),
        ({"train.batch_size": None}, "train.batch_size is null"),
        ({"train.batch_size": 0}, "batch_size is 0"),
        ({"train.epochs": 0}, "epochs is 0"),
        ({"train.steps": 0}, "steps is 0"),
        ({"train.muon_lr": -1.0}, "muon_lr is -1.0"),
        ({"train.ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"train.keep": "some"}, 'train.keep is "some"'),
        ({"model.img_size": [208]}, r"model.img_size is \[208\]"),
        ({"model.img_size": "208x176"}, 'model.img_size is "208x176"'),
        ({"model.img_size": [208, 170]}, "img_size 208x170 is not made of whole 16x16 patches"),
        ({"model.embed_dim": 101}, "embed_dim 101 is not a multiple of num_heads 2"),
        ({"model.drop_path_rate": 1}, "drop_path_rate is 1.0"),
        ({"model.depth": 0}, "depth is 0"),
        ({"data.std": [1, 0, 1]}, "std is"),
        ({"data.num_train": 0}, "num_train is 0"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        with_values(RunConfig(), values)
    assert caught.value.hint


def test_numbers_without_a_point_are_floats_where_floats_are_wanted() -> None:
    config = with_values(RunConfig(), {"train.epochs": 3, "model.img_size": [224, 192]})
    assert config.train.epochs == 3.0
    assert type(config.train.epochs) is float
    assert config.model.grid_size == (14, 12)


def test_missing_and_unknown_keys_name_the_source() -> None:
    values = to_json(RunConfig())
    with pytest.raises(VitpeError, match=r"runs/config.json: unknown key 'extra'"):
        from_json(RunConfig, values | {"extra": 1}, "runs/config.json")
    with pytest.raises(VitpeError, match=r"runs/config.json: unknown key 'train.lr'"):
        from_json(RunConfig, values | {"train": values["train"] | {"lr": 1}}, "runs/config.json")
    with pytest.raises(VitpeError, match=r"runs/config.json: model is not a JSON object"):
        from_json(RunConfig, values | {"model": 3}, "runs/config.json")


def test_presets_are_named_and_an_unknown_one_is_refused() -> None:
    for name, preset in PRESETS.items():
        config = RunConfig.from_preset(name)
        assert (config.preset, config.model, config.train) == (name, preset.model, preset.train)
        assert config.model.grid_size == (13, 11)
    assert RunConfig() == RunConfig.from_preset("tiny")
    with pytest.raises(UsageError, match="unknown preset 'huge'") as caught:
        RunConfig.from_preset("huge")
    assert all(name in caught.value.hint for name in PRESETS)


def test_one_table_of_labels_as_earlier_versions_wrote_it():
    changed = with_values(RunConfig(), {"data.data": "photos", "data.labels": "a.csv"})
    assert changed.data.labels == ("a.csv",)
    assert with_values(changed, {"data.labels": ["a.csv", "b.csv"]}).data.labels == ("a.csv", "b.csv")
