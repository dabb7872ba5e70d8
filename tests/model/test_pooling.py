"""Attribute queries against torch's own attention, and what weights of others make of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.model.test_model import random_images, randomize
from vitpe.config import ModelConfig
from vitpe.errors import VitpeError
from vitpe.model.convert import Converted, convert_state_dict
from vitpe.model.facts import ModelFacts
from vitpe.model.pooling import QueryPool
from vitpe.model.vit import VisionTransformer

NAMES = ("Red", "Green", "Blue", "Bright", "Dark")
CONFIG = ModelConfig(
    (12, 20),
    patch_size=4,
    num_classes=5,
    embed_dim=24,
    depth=2,
    num_heads=3,
    global_pool="queries",
    pos_embed="learned",
)


def random_model(config: ModelConfig = CONFIG, seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    model = VisionTransformer(config)
    randomize(model, seed)
    return model


def torchs(pool: QueryPool) -> nn.MultiheadAttention:
    """The same attention: queries and what is found go through no further map."""
    dim = pool.queries.shape[1]
    attention = nn.MultiheadAttention(dim, pool.num_heads, bias=False, batch_first=True)
    maps = torch.eye(dim), pool.key.weight.detach(), pool.value.weight.detach()
    attention.in_proj_weight.data.copy_(torch.cat(maps))
    attention.out_proj.weight.data.copy_(torch.eye(dim))
    return attention


@pytest.mark.parametrize(("num_classes", "num_heads"), [(5, 3), (1, 1), (7, 24)])
def test_logits_gradients_and_attention_are_those_of_torchs_attention(num_classes: int, num_heads: int) -> None:
    pool = random_model(replace(CONFIG, num_classes=num_classes, num_heads=num_heads)).query_pool
    attention = torchs(pool)
    tokens = 3 * torch.randn(4, 9, 24, generator=torch.Generator().manual_seed(1))
    queries = pool.queries.detach().clone().requires_grad_()
    seen = torch.nn.functional.layer_norm(tokens, (24,), eps=1e-6)
    found, weights = attention(queries.expand(4, -1, -1), seen, seen, average_attn_weights=False)
    expected = (found * pool.head_weight.detach()).sum(dim=-1)
    logits = pool(tokens)
    assert expected.std() > 0.02
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(pool.attention(tokens), weights, rtol=0, atol=1e-6)
    assert weights.std() > 0.003
    probe = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    for output in (logits, expected):
        (output * probe).sum().backward()
    _, keys, values = attention.in_proj_weight.grad.split(24)
    for ours, theirs in (
        (pool.queries.grad, queries.grad),
        (pool.key.weight.grad, keys),
        (pool.value.weight.grad, values),
        (pool.head_weight.grad, (found.detach() * probe[..., None]).sum(dim=0)),
    ):
        assert theirs.abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_they_start_as_a_model_without_them() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG)
    images = random_images(model)
    assert not model(images).any()
    randomize(model.head)
    plain = VisionTransformer(replace(CONFIG, global_pool="token"))
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "query_pool" not in key})
    torch.testing.assert_close(model(images), plain(images), rtol=0, atol=1e-6)
    randomize(model.query_pool)
    assert (model(images) - plain(images)).abs().min() > 1e-3


def test_attention_over_patches_is_in_their_order() -> None:
    """A patch whose token is what an attribute asks for has its look: the token at row n // 5, column n % 5."""
    model = random_model()
    images = random_images(model, batch=3)
    shares = model.attribute_attention(images)
    assert shares.shape == (3, 5, 15)
    given: list[Tensor] = []
    model.query_pool.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0].detach()))
    model(images)
    with torch.no_grad():
        tokens = given[0]
        expected = model.query_pool.attention(tokens).mean(dim=1)
        torch.testing.assert_close(shares, expected[..., 1:], rtol=0, atol=1e-6)
        torch.testing.assert_close(expected.sum(dim=-1), torch.ones(3, 5), rtol=0, atol=1e-5)
        seen = torch.nn.functional.layer_norm(tokens[1, 1 + 7], (24,))
        model.query_pool.queries[2] = 40 * (model.query_pool.key.weight @ seen)
        assert model.attribute_attention(images)[1, 2].argmax() == 7
    with pytest.raises(ValueError, match="global_pool is 'token', which has no attribute queries"):
        random_model(replace(CONFIG, global_pool="token")).attribute_attention(images)


def test_dropped_patches_are_not_looked_at() -> None:
    model = random_model()
    images = random_images(model, batch=1)
    keep = torch.tensor([[3, 14, 8, 0]])
    kept = model(images, keep)
    blind = images.clone()
    blind[0, :, 0:4, 4:8] = 9  # patch 1
    assert torch.equal(model(blind, keep), kept)
    assert not torch.allclose(model(blind), model(images))


def converted(
    tensors: dict[str, Tensor], ours: tuple[str, ...], theirs: tuple[str, ...] = NAMES, **changes: object
) -> Converted:
    config = replace(CONFIG, num_classes=len(ours), **changes)
    return convert_state_dict(tensors, config, ours, ModelFacts("the test", (3, 5), 3, theirs, is_ours=True))


def test_queries_of_other_attributes_are_taken_by_name() -> None:
    theirs = random_model().state_dict()
    ours = ("Dark", "Cold", "Red")
    result = converted(theirs, ours)
    assert result.notes == ("head: 2 of 3 attributes by name, zero for Cold",)
    model = VisionTransformer(replace(CONFIG, num_classes=3))
    model.load_state_dict(result.state_dict, strict=True)
    images = random_images(model)
    expected = random_model()(images)
    torch.testing.assert_close(model(images)[:, [0, 2]], expected[:, [4, 0]], rtol=0, atol=1e-5)
    assert not model(images)[:, 1].any()
    assert model.query_pool.queries[1].std() > 0.005  # a new one can be learned
    same = converted(theirs, NAMES)
    assert same.notes == ()
    assert all(torch.equal(value, theirs[key]) for key, value in same.state_dict.items())


def test_a_model_without_queries_gets_new_ones_that_change_no_logit() -> None:
    plain = random_model(replace(CONFIG, global_pool="token"))
    result = converted(plain.state_dict(), NAMES)
    assert result.notes == ("attribute queries: the weights have none, ours start anew",)
    model = VisionTransformer(CONFIG)
    model.load_state_dict(result.state_dict, strict=True)
    images = random_images(model)
    torch.testing.assert_close(model(images), plain(images), rtol=0, atol=1e-6)
    assert model.query_pool.queries.std() > 0.005


def test_what_cannot_be_taken_over_is_said() -> None:
    theirs = random_model().state_dict()
    with pytest.raises(VitpeError, match="the weights have attribute queries, the model has none") as caught:
        converted(theirs, NAMES, global_pool="token")
    assert caught.value.hint == "--set model.global_pool=queries"
    for key, tensor, complaint in (
        ("query_pool.queries", None, "'query_pool.queries' is missing"),
        ("query_pool.value.weight", None, "'query_pool.value.weight' is missing"),
        ("query_pool.queries", torch.zeros(4, 24), r"'query_pool.queries' has shape \(4, 24\), expected \(A, 24\)"),
        ("query_pool.head_weight", torch.zeros(5, 12), r"'query_pool.head_weight' has shape \(5, 12\), expected"),
        ("query_pool.key.weight", torch.zeros(24), r"'query_pool.key.weight' has shape \(24,\), expected \(24, 24\)"),
    ):
        damaged = {name: value for name, value in theirs.items() if name != key}
        if tensor is not None:
            damaged[key] = tensor
        with pytest.raises(VitpeError, match=complaint):
            converted(damaged, NAMES)


@pytest.mark.parametrize("pool", ["token", "avg", "queries"])
def test_logits_are_rows_of_the_head_times_what_they_read(pool: str) -> None:
    model = random_model(replace(CONFIG, global_pool=pool))
    images = random_images(model, 3)
    tokens = model.embed(images)
    inputs = model.head_inputs(tokens, [3, 0])
    rows = torch.cat(model.head_weights(), dim=1)[[3, 0]]
    assert inputs.shape == (3, 2, rows.shape[1])
    logits = (inputs * rows).sum(dim=2) + model.head.bias[[3, 0]]
    torch.testing.assert_close(logits, model.classify(tokens)[:, [3, 0]], rtol=1e-4, atol=1e-4)
