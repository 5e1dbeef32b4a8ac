"""How searches of several sizes divide a cluster."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from study.cluster import connection as cluster
from study.search.slots import Room, need_of, shares
from study.spec import Size
from tests.support import recipes
from trainables.resources import Resources

SIZE = recipes.tiny().sizes[0]
ONE, TWO = {"CPU": 1.0}, {"CPU": 2.0}


@pytest.mark.parametrize(
    ("have", "needs", "wanted", "expected"),
    [
        ({"CPU": 2}, {"a": ONE}, {"a": 9}, {"a": 2}),
        ({"CPU": 2}, {"a": ONE}, {"a": 1}, {"a": 1}),
        ({"CPU": 5}, {"a": ONE, "b": ONE}, {"a": 9, "b": 9}, {"a": 3, "b": 2}),
        ({"CPU": 5}, {"a": ONE, "b": TWO}, {"a": 9, "b": 9}, {"a": 3, "b": 1}),
        ({"CPU": 8}, {"a": ONE, "b": ONE}, {"a": 1, "b": 9}, {"a": 1, "b": 7}),
        ({"CPU": 1}, {"a": TWO}, {"a": 9}, {"a": 0}),
        # Sizes of different cards do not take from each other.
        (
            {"CPU": 99, "GPU": 10, "GPU:A10G": 8, "GPU:H100": 2},
            {"a": {"GPU": 1, "GPU:A10G": 1}, "b": {"GPU": 2, "GPU:H100": 2}},
            {"a": 99, "b": 99},
            {"a": 8, "b": 1},
        ),
    ],
)
def test_room_is_dealt_out_in_turn(
    have: dict[str, float], needs: dict[str, dict[str, float]], wanted: dict[str, int], expected: dict[str, int]
) -> None:
    assert shares(have, needs, wanted) == expected


def test_a_size_asks_for_its_workers_cards() -> None:
    size = dataclasses.replace(SIZE, resources=Resources(workers=4, cpus=3, gpus=1, accelerator_type="H100"))
    assert need_of(size) == {"CPU": 12, "GPU": 4, "GPU:H100": 4}
    assert need_of(Size("x", SIZE.encoder, Resources(workers=2))) == {"CPU": 2, "GPU": 0}


def test_a_search_that_comes_in_takes_its_share_as_trials_end() -> None:
    room = Room({"CPU": 4})
    with room.entered("a", ONE, 9):
        assert [room.take("a") for _ in range(5)] == [True] * 4 + [False]
        with room.entered("b", ONE, 9):
            assert not room.take("b")
            room.give_back("a")
            assert not room.take("a"), "a has its half and more"
            assert room.take("b")
            room.give_back("a")
            assert room.take("b")
            assert not room.take("b")
        assert room.take("a")


def test_nodes_may_hold_fewer_trials_than_all_their_cores_together() -> None:
    room = Room({"CPU": 4}, {"a": 2})
    with room.entered("a", ONE, 9):
        assert [room.take("a") for _ in range(3)] == [True, True, False]
        with room.entered("b", ONE, 9):
            assert [room.take("b") for _ in range(3)] == [True, True, False]


def test_a_search_that_needs_everything_waits_until_the_others_have_left() -> None:
    room = Room({"CPU": 2})
    order: list[str] = []

    def large() -> None:
        with room.entered("large", TWO, 1):
            order.append("large in")
            assert room.take("large")

    thread = threading.Thread(target=large)
    with room.entered("small", ONE, 1):
        thread.start()
        thread.join(0.2)
        assert room.take("small")
        order.append("small out")
    thread.join(10)
    assert order == ["small out", "large in"]


def test_a_search_that_is_told_to_stop_waits_no_more() -> None:
    room = Room({"CPU": 1})
    with room.entered("a", ONE, 1), room.entered("b", ONE, 1, until=lambda: True):
        pass


def test_a_trial_that_needs_more_cores_than_there_are_takes_them_all() -> None:
    room = Room({"CPU": 2})
    with room.entered("large", {"CPU": 16.0}, 9):
        assert room.take("large")
        assert not room.take("large")
        room.give_back("large")
        assert room.take("large")


def test_a_machine_of_our_own_deals_out_the_cores_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray counts as many as the largest size asks for; a cluster has what its nodes say."""
    sizes = [SIZE, dataclasses.replace(SIZE, name="large", resources=Resources(workers=2, cpus=8))]
    monkeypatch.setattr(cluster, "capacity", lambda sizes: {"CPU": 16.0, "GPU": 0.0})
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said: list[str] = []
    assert cluster.room_on(sizes, None, said.append) == {"CPU": 2.0, "GPU": 0.0}
    assert said == ["large asks for 16 cores, and this machine has 2: its workers share them"]
    assert cluster.room_on(sizes, "ray://there", said.append) == {"CPU": 16.0, "GPU": 0.0}
