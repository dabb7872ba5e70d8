"""Balanced orders: groups come equally often, and so do the images of each, in any number of epochs."""

import itertools
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_batches import CPU, CROP, STORED, Numbered, take
from vitpe.data.augmentation import Augmentation, random_crops
from vitpe.data.balance import balanced_order
from vitpe.data.batches import Batches, Shard
from vitpe.data.storage import ImageStore

sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def parted(counts: list[int], seed: int = 0) -> list[np.ndarray]:
    """That many of the first numbers in each group, at random."""
    numbers = np.random.default_rng(seed).permutation(sum(counts))
    return [np.sort(part) for part in np.split(numbers, np.cumsum(counts)[:-1])]


@given(sizes, st.integers(0, 2**63 - 1), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_groups_and_images_differ_by_one_draw_at_most(counts, seed, epochs):
    members, n = parted(counts), sum(counts)
    drawn: Counter[int] = Counter()
    seen: set[tuple[int, int]] = set()
    for epoch in range(epochs):
        indices, rounds = balanced_order(members, seed, epoch, n)
        assert indices.shape == rounds.shape == (n,)
        for index, number in zip(indices.tolist(), rounds.tolist(), strict=True):
            assert (index, number) not in seen
            seen.add((index, number))
        drawn.update(indices.tolist())
    assert all(number < drawn[index] for index, number in seen)  # rounds count from 0, without gaps
    per_group = [sum(drawn[image] for image in images.tolist()) for images in members]
    assert max(per_group) - min(per_group) <= 1
    for images in members:
        times = [drawn[image] for image in images.tolist()]
        assert max(times) - min(times) <= 1


def test_by_hand():
    """Six images, one of them alone in its group: half of each epoch is that one."""
    members = [np.array([0, 1, 2, 4, 5]), np.array([3])]
    first, second = (balanced_order(members, 0, epoch, 6) for epoch in (0, 1))
    for epoch, (indices, rounds) in enumerate((first, second)):
        assert Counter(indices.tolist())[3] == 3
        assert sorted(rounds[indices == 3].tolist()) == [3 * epoch, 3 * epoch + 1, 3 * epoch + 2]
    others = [index for index in (*first[0].tolist(), *second[0].tolist()) if index != 3]
    assert len(others) == 6
    assert set(others) == {0, 1, 2, 4, 5}


def test_the_order_is_of_the_seed_and_the_epoch():
    members = parted([30, 3, 7])
    orders = [balanced_order(members, seed, epoch, 40)[0].tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    groups = np.isin(balanced_order(members, 0, 0, 40)[0], members[0])
    assert groups.tolist() != sorted(groups.tolist()) != sorted(groups.tolist(), reverse=True)
    assert not np.array_equal(np.flatnonzero(groups) % 3, np.zeros(groups.sum()))  # not every third: shuffled


def balanced(shard: Shard = Shard()) -> tuple[Numbered, Batches]:  # noqa: B008 - frozen
    samples = Numbered(20)
    members = parted([15, 4, 1])
    return samples, Batches(ImageStore(samples, CPU), CROP, 4, Augmentation(seed=5), shard, members)


def test_batches_are_of_that_order_and_an_image_looks_another_way_each_time():
    samples, batches = balanced()
    made = take(batches.from_step(0), 10)
    looks: dict[int, list[bytes]] = {}
    for step, batch in enumerate(made):
        indices, rounds = (part[step % 5 * 4 :][:4] for part in balanced_order(parted([15, 4, 1]), 5, step // 5, 20))
        assert batch.labels[:, 0].tolist() == indices.tolist()
        top, left, flip = random_crops(5, rounds, indices, STORED, CROP, True)
        for i, index in enumerate(indices.tolist()):
            image = samples.pixels[index][:, top[i] : top[i] + CROP[0], left[i] : left[i] + CROP[1]]
            assert np.array_equal(batch.images[i].numpy(), image[:, :, ::-1] if flip[i] else image)
            looks.setdefault(index, []).append(batch.images[i].numpy().tobytes())
    alone = max(looks.values(), key=len)
    assert len(alone) in (13, 14)  # a third of 40
    assert len(set(alone)) > 8  # of 6 × 5 × 2 crops


def test_from_any_step_on_they_are_the_same():
    _, batches = balanced()
    whole = take(batches.from_step(0), 12)
    for step in (1, 5, 7):
        for ours, expected in zip(take(batches.from_step(step), 12 - step), whole[step:], strict=True):
            assert torch.equal(ours.images, expected.images)
            assert torch.equal(ours.labels, expected.labels)


def test_workers_take_disjoint_parts_of_the_same_batches():
    whole = take(balanced()[1].from_step(3), 4)
    parts = [take(balanced(Shard(rank, 2))[1].from_step(3), 4) for rank in (0, 1)]
    for expected, first, second in itertools.starmap(lambda *b: b, zip(whole, *parts, strict=True)):
        assert torch.equal(torch.cat([first.images, second.images]), expected.images)
        assert torch.equal(torch.cat([first.labels, second.labels]), expected.labels)
