"""Heartbeats of workers, without processes: who is waited for, and which of them tells the user."""

import time
from collections.abc import Iterator

import pytest
from torch.distributed import HashStore

from vitpe.errors import VitpeError
from vitpe.launch import Launch
from vitpe.training import heartbeat
from vitpe.training.heartbeat import STEP, WAITING, Heartbeat


class Group:
    """Workers that share a store, and all that they told."""

    def __init__(self, size: int) -> None:
        store = HashStore()
        self.told: list[tuple[int, str]] = []
        self.members = [Heartbeat(Launch(rank, size), store, self._teller(rank)) for rank in range(size)]

    def _teller(self, rank: int):
        return lambda text: self.told.append((rank, text))


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    monkeypatch.setattr(heartbeat, "PATIENCE_SECONDS", 0.9)
    monkeypatch.setattr(heartbeat, "_BEAT_SECONDS", 0.05)
    group = Group(3)
    for one in group.members:
        one.start()
    yield group
    for one in group.members:
        one.stop()


def test_scoring_is_told_as_what_it_is(three: Group) -> None:
    """Once, by the first worker that waits."""
    first, second, third = three.members
    for _ in range(2):
        with first.doing("scoring"), second.doing(WAITING), third.doing(STEP):
            time.sleep(2)
    assert three.told == [(1, "waiting for rank 0, which is scoring")]


def test_work_that_takes_its_time_is_no_hanging(three: Group) -> None:
    first, second, third = three.members
    with first.doing("loading images"), second.doing(WAITING), third.doing(WAITING):
        time.sleep(0.3)
    with first.doing(STEP), second.doing(STEP), third.doing(WAITING):
        time.sleep(2)
    assert three.told == []


def test_a_silent_worker_is_told_once_a_wait(three: Group) -> None:
    first, second, third = three.members
    third.stop()
    for _ in range(2):
        with first.doing(STEP), second.doing(WAITING):
            time.sleep(2)
    assert [(rank, text.rpartition(" for ")[0]) for rank, text in three.told] == [
        (0, "waiting for rank 2, without a sign of life")
    ] * 2


def test_who_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "JOIN_SECONDS", 0.3)
    group = Group(3)
    with pytest.raises(VitpeError, match="ranks 1, 2 never came"):
        group.members[0].wait_for_all()
    assert [text.partition(",")[0] for _, text in group.told] == ["waiting for ranks 1"]


def test_the_same_message_is_told_once_and_each_failure_of_its_own() -> None:
    first, second, third = Group(3).members
    same, other = VitpeError("no data"), VitpeError("disk full")
    assert first.error_to_raise(same) is same
    silent = second.error_to_raise(VitpeError("no data"))
    assert isinstance(silent, SystemExit)
    assert silent.code == 1
    assert third.error_to_raise(other) is other


def test_after_a_lost_connection_the_failure_of_another_is_enough() -> None:
    first, second, _ = Group(3).members
    bug = ZeroDivisionError("ours")
    assert second.error_to_raise(bug) is bug
    silent = first.error_to_raise(RuntimeError("gloo: Connection closed by peer"))
    assert isinstance(silent, SystemExit)
    assert silent.code == 1
