"""Batches: what a training image looks like depends on (seed, epoch, index) alone, and nothing is lost on the way."""

import gc
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.helpers import run_python
from vitpe.data import storage as module
from vitpe.data.augmentation import Augmentation, random_crops
from vitpe.data.batch import Batch, crop_on_device
from vitpe.data.batches import Batches, Shard
from vitpe.data.celeba import read_celeba
from vitpe.data.samples import Samples
from vitpe.data.storage import ImageStore, choose_store, crop_on_host, num_decoded_bytes
from vitpe.errors import VitpeError

STORED, CROP = (14, 12), (9, 8)
CPU = torch.device("cpu")
WHOLE = Shard()
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
STORES = ["device", "memory", "disk"]


class Numbered(Samples):
    """Samples whose pixels and labels tell which they are; `before_read` is called by the threads that read."""

    source = "numbered"
    attributes = ("a", "b")
    stored_size = STORED

    def __init__(self, count: int, before_read: Callable[[Sequence[int]], None] = lambda _: None) -> None:
        rng = np.random.default_rng(count)
        self.names = [f"image-{i}" for i in range(count)]
        self.labels = np.stack([np.arange(count) % 256, np.arange(count) // 256], axis=1).astype(np.uint8)
        self.pixels = rng.integers(0, 256, (count, 3, *STORED), dtype=np.uint8)
        self.before_read = before_read

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        self.before_read(indices)
        return self.pixels[list(indices)]


def training(
    samples: Samples,
    store: str = "auto",
    device: torch.device = CPU,
    crop_size: tuple[int, int] = CROP,
    batch_size: int = 4,
    shard: Shard = WHOLE,
    **random: object,
) -> Batches:
    augmentation = Augmentation(**({"seed": 5} | random))
    return Batches(ImageStore(samples, device, store), crop_size, batch_size, augmentation, shard)


def take(generator: Iterator[Batch], count: int) -> list[Batch]:
    """The next `count` batches; the generator is closed."""
    found = list(itertools.islice(generator, count))
    generator.close()
    return found


def indices(*batches: Batch) -> list[int]:
    """Which of Numbered's images these are, by their labels."""
    labels = torch.cat([batch.labels for batch in batches]).int()
    return (labels[:, 0] + 256 * labels[:, 1]).tolist()


def same(found: list[Batch], expected: list[Batch]) -> bool:
    return len(found) == len(expected) and all(
        torch.equal(a.images.cpu(), b.images.cpu()) and torch.equal(a.labels.cpu(), b.labels.cpu())
        for a, b in zip(found, expected, strict=True)
    )


def data_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("vitpe-data", "vitpe-decode"))]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert data_threads() == []


# Crops


def crops(count: int, seed: int = 0, epoch: int = 0, stored: tuple[int, int] = (218, 178)):
    return random_crops(seed, epoch, np.arange(count), stored, (208, 176), True)


def test_crops_are_uniform_over_every_position():
    count = 66_000
    top, left, flip = crops(count)
    table = np.zeros((11, 3, 2), dtype=int)
    np.add.at(table, (top, left, flip.astype(int)), 1)
    expected = count / table.size
    chi_square = ((table - expected) ** 2 / expected).sum()
    freedom = table.size - 1
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_crops_of_an_image_change_with_the_epoch_the_seed_and_the_index():
    top, left, flip = crops(5000)
    for other in (crops(5000, epoch=1), crops(5000, seed=1), tuple(part[::-1] for part in crops(5000))):
        same_place = (top == other[0]) & (left == other[1]) & (flip == other[2])
        assert abs(same_place.mean() - 1 / 66) < 0.01


def test_crops_of_an_image_do_not_depend_on_its_batch():
    top, left, flip = crops(1000)
    some = np.array([7, 999, 0, 7])
    found = random_crops(0, 0, some, (218, 178), (208, 176), True)
    assert all(np.array_equal(a, b[some]) for a, b in zip(found, (top, left, flip), strict=True))


def test_no_flips_when_they_are_off_and_no_choice_without_a_margin():
    top, left, flip = random_crops(0, 0, np.arange(100), CROP, CROP, False)
    assert not top.any() and not left.any() and not flip.any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 1000), st.lists(st.integers(0, 30), min_size=1, max_size=8), st.booleans())
@pytest.mark.parametrize("device", DEVICES)
def test_the_device_crops_as_the_host_does(device, seed, epoch, which, channels_last):
    source = Numbered(31).pixels
    at = np.array(which)
    top, left, flip = random_crops(seed, epoch, at, STORED, CROP, True)
    by_hand = np.stack([source[i, :, y : y + 9, x : x + 8] for i, y, x in zip(at, top, left, strict=True)])
    by_hand[flip] = by_hand[flip][..., ::-1]
    host = np.empty_like(by_hand)
    layout = source.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2) if channels_last else source
    crop_on_host(layout[at], top, left, flip, host)
    assert np.array_equal(host, by_hand)
    places = torch.from_numpy(np.stack([at, top, left, flip]))
    on_device = crop_on_device(torch.from_numpy(layout).to(device), places.to(device), CROP)
    assert np.array_equal(on_device.cpu().numpy(), by_hand)


# Order


def test_an_epoch_has_every_image_once_and_each_epoch_another_order():
    batches = training(Numbered(22))
    assert batches.steps_per_epoch == 5
    found = take(batches.from_step(0), 15)
    orders = [indices(*found[start : start + 5]) for start in (0, 5, 10)]
    assert all(len(set(order)) == 20 for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert set().union(*orders) == set(range(22))


def test_images_are_the_crops_of_their_own_samples():
    samples = Numbered(22)
    for step, batch in enumerate(take(training(samples).from_step(0), 7)):
        at = np.array(indices(batch))
        top, left, flip = random_crops(5, step // 5, at, STORED, CROP, True)
        expected = np.empty((4, 3, *CROP), dtype=np.uint8)
        crop_on_host(samples.pixels[at], top, left, flip, expected)
        assert batch.images.dtype == torch.uint8
        assert np.array_equal(batch.images.numpy(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [0, 4, 5, 13])
def test_the_patches_that_a_batch_keeps_are_those_of_its_step(step, device):
    dropping = {"patch_keep": 0.5, "num_patches": 6}
    batches = training(Numbered(22), device=torch.device(device), **dropping)
    found = take(batches.from_step(step), 8)
    for number, batch in enumerate(found, start=step):
        assert batch.keep.shape == (4, 3)
        assert batch.keep.device.type == device
        assert torch.equal(batch.keep.cpu(), Augmentation(seed=5, **dropping).keep(number, 4))
        assert all(len(set(row)) == 3 and max(row) < 6 for row in batch.keep.tolist())
    assert not torch.equal(found[0].keep, found[1].keep)
    halves = [take(training(Numbered(22), shard=Shard(rank, 2), **dropping).from_step(step), 1)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat([half.keep for half in halves]), found[0].keep.cpu())
    assert all(batch.keep is None for batch in (*take(batches.once(), 2), *take(batches.sample(8, 0), 2)))
    assert all(batch.keep is None for batch in take(training(Numbered(22)).from_step(step), 2))


@pytest.mark.parametrize("step", [0, 1, 4, 5, 6, 13])
def test_from_a_step_the_sequence_goes_on_exactly(step):
    batches = training(Numbered(22))
    assert same(take(batches.from_step(step), 8), take(batches.from_step(0), step + 8)[step:])


def test_the_seed_decides():
    samples = Numbered(22)
    first = take(training(samples).from_step(0), 6)
    assert same(first, take(training(samples).from_step(0), 6))
    assert not same(first, take(training(samples, seed=6).from_step(0), 6))


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_slices_make_the_whole_batch(world_size):
    samples = Numbered(40)
    whole = take(training(samples, batch_size=12).from_step(2), 5)
    ranks = [
        take(training(samples, batch_size=12, shard=Shard(rank, world_size)).from_step(2), 5)
        for rank in range(world_size)
    ]
    joined = [
        Batch({name: torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels")})
        for parts in zip(*ranks, strict=True)
    ]
    assert same(joined, whole)


def test_ranks_get_equal_slices_of_a_small_split():
    """A batch is at most the split, and must still divide among the ranks, or their mean gradient is another."""
    batches = training(Numbered(7), batch_size=64, shard=Shard(1, 2))
    assert batches.batch_size == 6
    assert len(next(iter(take(batches.from_step(0), 1))).images) == 3
    with pytest.raises(VitpeError, match="1 images cannot be shared by 2 workers"):
        training(Numbered(1), shard=Shard(0, 2))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("store", STORES)
def test_once_gives_every_sample_in_order_with_centre_crops(store, device):
    samples = Numbered(11)
    batches = Batches(ImageStore(samples, torch.device(device), store), CROP, 4)
    for _ in range(2):
        found = list(batches.once())
        assert [len(batch.images) for batch in found] == [4, 4, 3]
        assert indices(*found) == list(range(11))
        pixels = torch.cat([batch.images for batch in found]).cpu().numpy()
        assert np.array_equal(pixels, samples.pixels[:, :, 2:11, 2:10])


# Stores


@pytest.mark.parametrize("device", DEVICES)
def test_every_store_gives_the_same_batches(celeba, device):
    found = []
    for store in STORES:
        samples = read_celeba(celeba, "train", (24, 20))
        batches = training(samples, crop_size=(20, 18), store=store, device=torch.device(device))
        assert batches.store.where == store
        found.append(take(batches.from_step(3), 9))
        assert all(batch.images.device.type == device for batch in found[-1])
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_decoding_up_front_tells_how_far_it_is(celeba):
    seen: list[tuple[int, int]] = []
    ImageStore(read_celeba(celeba, "train"), CPU, "device", lambda *counts: seen.append(counts))
    assert seen == sorted(seen)
    assert seen[-1] == (24, 24)


class Preloading(Numbered):
    """Preloads nothing, one image after the other, each when the test says so; the third is damaged."""

    def __init__(self) -> None:
        super().__init__(6)
        self.may, self.num_read = threading.Semaphore(0), 0

    def preload(self, on_progress):
        for number in range(6):
            assert self.may.acquire(timeout=60)
            if number == 2:
                raise VitpeError("image 2 is damaged")
            self.num_read = number + 1
            on_progress(number + 1, 6)


def test_images_are_read_into_memory_while_training_on_others_has_begun():
    samples = Preloading()
    batches = Batches(ImageStore(samples, CPU, "memory"), CROP, 2)
    assert indices(*batches.once()) == list(range(6))
    assert samples.num_read == 0
    samples.may.release(3)
    with pytest.raises(VitpeError, match="image 2 is damaged"):
        for _ in range(1000):
            list(batches.once())
            time.sleep(0.01)
    batches.store.close()


def test_a_closed_store_reads_no_further():
    samples = Preloading()
    store = ImageStore(samples, CPU, "memory")
    closing = threading.Thread(target=store.close)
    closing.start()
    closing.join(timeout=0.2)
    assert closing.is_alive()
    samples.may.release(1)
    closing.join(timeout=60)
    assert not closing.is_alive()
    assert samples.num_read == 1


@pytest.mark.parametrize(
    ("decoded_limit", "available", "expected"),
    [(1 << 30, 1 << 33, "device"), (0, 1 << 33, "memory"), (1 << 30, 1 << 20, "memory"), (1 << 30, 1000, "disk")],
)
def test_the_store_is_what_fits(celeba, monkeypatch, decoded_limit, available, expected):
    samples = read_celeba(celeba, "train")
    assert 10_000 < samples.num_encoded_bytes() < 500_000
    monkeypatch.setattr(module, "_DECODED_LIMIT", decoded_limit)
    monkeypatch.setattr(module, "_available_memory", lambda: available)
    assert choose_store(samples, CPU) == expected


def test_workers_of_one_machine_share_its_memory_and_its_processors(
    celeba: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_celeba(celeba, "train")
    encoded = samples.num_encoded_bytes()
    monkeypatch.setattr(module, "_DECODED_LIMIT", 0)
    monkeypatch.setattr(module, "_available_memory", lambda: 9 * encoded)
    monkeypatch.setattr("vitpe.launch.os.sched_getaffinity", lambda pid: range(9), raising=False)
    found = []
    for num_workers in ("", "2", "4", "5", "16"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", num_workers)
        found.append((choose_store(samples, CPU), module.num_threads()))
    assert found == [("memory", 9), ("memory", 4), ("memory", 2), ("disk", 1), ("disk", 1)]


@pytest.mark.parametrize(("reserve", "expected"), [(0, "device"), (50_000, "device"), (51_000, "memory")])
def test_on_a_gpu_images_leave_free_what_training_needs(
    celeba: Path, monkeypatch: pytest.MonkeyPatch, reserve: int, expected: str
) -> None:
    samples = read_celeba(celeba, "train")
    monkeypatch.setattr(module, "free_gpu_bytes", lambda device: num_decoded_bytes(samples) + 50_500)
    assert choose_store(samples, torch.device("cuda:0"), reserve) == expected


def test_what_is_not_in_files_is_kept_if_there_is_room(monkeypatch):
    monkeypatch.setattr(module, "_DECODED_LIMIT", 0)
    assert choose_store(Numbered(20), CPU) == "device"
    monkeypatch.setattr(module, "_available_memory", lambda: 1000)
    assert choose_store(Numbered(20), CPU) == "disk"


def test_the_machines_memory_is_asked_for():
    assert 1 << 26 < module._available_memory() < 1 << 46


# Threads, waiting, trouble


def test_waiting_for_data_is_counted():
    batches = training(Numbered(40, lambda _: time.sleep(0.05)), store="disk")
    take(batches.from_step(0), 6)
    first = batches.wait_seconds
    assert first >= 0.05
    take(batches.from_step(0), 6)
    assert batches.wait_seconds >= first + 0.05


def test_a_few_batches_are_prepared_ahead_and_no_more():
    lock, count = threading.Lock(), itertools.count(1)
    started: list[int] = []

    def before_read(_: Sequence[int]) -> None:
        with lock:
            started.append(next(count))

    batches = training(Numbered(4000, before_read), store="disk")
    generator = batches.from_step(0)
    next(generator)
    time.sleep(0.2)
    assert 1 <= len(started) <= batches._num_threads + 1
    generator.close()


def test_a_closed_generator_leaves_no_thread():
    batches = training(Numbered(40))
    generator = batches.from_step(0)
    next(generator)
    assert data_threads()
    generator.close()
    assert not data_threads()
    with pytest.raises(StopIteration):
        next(generator)


def test_a_forgotten_generator_leaves_no_thread():
    generator = training(Numbered(40)).from_step(0)
    next(generator)
    del generator
    gc.collect()
    assert not data_threads()


def test_an_error_of_the_consumer_leaves_no_thread():
    def consume() -> None:
        for _ in training(Numbered(40)).from_step(0):
            raise KeyError("the consumer's own")

    with pytest.raises(KeyError, match="own"):
        consume()
    gc.collect()
    assert not data_threads()


def test_closing_does_not_wait_for_what_has_not_begun():
    """At most the batches that threads are busy with are finished; the queue is dropped."""
    done: list[Sequence[int]] = []
    slow = training(Numbered(400, lambda which: (time.sleep(0.1), done.append(which))), store="disk")
    generator = slow.from_step(0)
    next(generator)
    generator.close()
    assert len(done) <= 2 * slow._num_threads + 1


def test_a_process_with_a_half_used_generator_ends():
    done = run_python(
        "-c",
        "from tests.data.test_batches import Numbered, training\n"
        "generator = training(Numbered(4000)).from_step(0)\n"
        "print(len(next(generator).images))\n",
        timeout=100,
    )
    assert (done.code, done.stdout, done.stderr) == (0, "4\n", "")


@pytest.mark.parametrize("store", STORES)
def test_a_corrupt_image_is_named_through_the_threads(celeba, tmp_path, store):
    folder = shutil.copytree(celeba, tmp_path / "copy")
    image: Path = folder / "img_align_celeba" / "000007.jpg"
    image.write_bytes(image.read_bytes()[:400])
    with pytest.raises(VitpeError, match=r"000007\.jpg: damaged image") as caught:
        take(training(read_celeba(folder, "train"), crop_size=(208, 176), store=store).from_step(0), 6)
    assert caught.value.hint
    gc.collect()


def test_a_bug_in_the_samples_keeps_its_traceback():
    def fail(_: Sequence[int]) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        take(training(Numbered(40, fail), store="disk").from_step(0), 1)
    gc.collect()


def test_images_smaller_than_the_crop_are_refused():
    with pytest.raises(VitpeError, match="images of 14x12 pixels cannot be cropped to 15x8"):
        training(Numbered(4), crop_size=(15, 8))
