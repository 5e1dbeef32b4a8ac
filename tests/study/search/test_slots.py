"""How searches of several sizes divide a cluster."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from study.cluster.capacity import capacity_of_nodes
from study.cluster.packing import Packing
from study.search.slots import Slots, shares, trial_request
from study.spec import Size
from tests.support import recipes
from trainables.resources import WAITING_BYTES, Resources

SIZE = recipes.tiny().sizes[0]
ONE, TWO = {"CPU": 1.0}, {"CPU": 2.0}


@pytest.mark.parametrize(
    ("capacity", "requests", "wanted", "expected"),
    [
        ({"CPU": 2}, {"a": ONE}, {"a": 9}, {"a": 2}),
        ({"CPU": 2}, {"a": ONE}, {"a": 1}, {"a": 1}),
        ({"CPU": 5}, {"a": ONE, "b": ONE}, {"a": 9, "b": 9}, {"a": 3, "b": 2}),
        ({"CPU": 5}, {"a": ONE, "b": TWO}, {"a": 9, "b": 9}, {"a": 3, "b": 1}),
        ({"CPU": 8}, {"a": ONE, "b": ONE}, {"a": 1, "b": 9}, {"a": 1, "b": 7}),
        ({"CPU": 1}, {"a": TWO}, {"a": 9}, {"a": 0}),
        # Sizes on different accelerators do not compete.
        (
            {"CPU": 99, "GPU": 10, "GPU:A10G": 8, "GPU:H100": 2},
            {"a": {"GPU": 1, "GPU:A10G": 1}, "b": {"GPU": 2, "GPU:H100": 2}},
            {"a": 99, "b": 99},
            {"a": 8, "b": 1},
        ),
    ],
)
def test_slots_are_dealt_out_in_turn(
    capacity: dict[str, float],
    requests: dict[str, dict[str, float]],
    wanted: dict[str, int],
    expected: dict[str, int],
) -> None:
    assert shares(capacity, requests, wanted=wanted) == expected


def test_a_trial_requests_the_resources_of_all_its_workers() -> None:
    size = dataclasses.replace(SIZE, resources=Resources(workers=4, cpus=3, gpus=1, accelerator_type="H100"))
    assert trial_request(size) == {"CPU": 12, "GPU": 4, "GPU:H100": 4}
    assert trial_request(Size("x", SIZE.encoder, Resources(workers=2))) == {"CPU": 2, "GPU": 0}
    alone, group = (Size("x", SIZE.encoder, Resources(workers=count, memory_gb=2.0)) for count in (1, 3))
    assert trial_request(alone) == {"CPU": 1, "GPU": 0, "memory": 2e9}
    assert trial_request(group) == {"CPU": 3, "GPU": 0, "memory": 6e9 + WAITING_BYTES}, "with the process that waits"


def test_no_more_trials_run_than_fit_into_memory() -> None:
    slots = Slots({"CPU": 4, "memory": 5e9})
    with slots.admitted("a", {"CPU": 1, "memory": 2e9}, trials=9):
        assert [slots.acquire("a", str(trial)) for trial in range(3)] == [True, True, False]


def test_a_new_search_gets_its_share_as_trials_end() -> None:
    slots = Slots({"CPU": 4})
    with slots.admitted("a", ONE, trials=9):
        assert [slots.acquire("a", str(trial)) for trial in range(5)] == [True] * 4 + [False]
        with slots.admitted("b", ONE, trials=9):
            assert not slots.acquire("b", "first")
            slots.release("a", "0")
            assert not slots.acquire("a", "5"), "a has more than its half"
            assert slots.acquire("b", "first")
            slots.release("a", "1")
            assert slots.acquire("b", "second")
            assert not slots.acquire("b", "third")
        assert slots.acquire("a", "5")


def test_trials_of_several_sizes_run_only_as_far_as_the_nodes_hold_them_together() -> None:
    """Two nodes of four GPUs: the free GPUs of two nodes are no place for a trial that needs one node."""
    nodes = capacity_of_nodes([{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}] * 2)
    sizes = {
        name: Size(name, SIZE.encoder, Resources(workers=count, gpus=1, one_node=count > 1))
        for name, count in {"one": 1, "two": 2, "three": 3, "other three": 3}.items()
    }
    slots = Slots(nodes.totals(), nodes=lambda: Packing(nodes, {name: size.resources for name, size in sizes.items()}))

    def admitted(name: str, **until: Callable[[], bool]) -> AbstractContextManager[None]:
        return slots.admitted(name, trial_request(sizes[name]), trials=9, **until)

    with admitted("three"), admitted("one"):
        assert [slots.acquire("three", str(trial)) for trial in range(3)] == [True, True, False]
        assert [slots.acquire("one", str(trial)) for trial in range(3)] == [True, True, False]
    asked: list[bool] = []

    def asked_before() -> bool:
        asked.append(True)
        return len(asked) > 1

    with admitted("three"), admitted("other three"), admitted("two", until=asked_before):
        assert len(asked) == 2, "eight GPUs are enough for one trial of each; the nodes have one left each"


def test_halves_of_two_cards_are_no_card_until_trials_share_one_again() -> None:
    """Of four halves on two cards, one ends on each. Once a third ends, a new half joins the last, and a card is free."""
    nodes = capacity_of_nodes([{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}])
    sizes = {name: Size(name, SIZE.encoder, Resources(gpus=gpus)) for name, gpus in {"half": 0.5, "whole": 1}.items()}
    slots = Slots(nodes.totals(), nodes=lambda: Packing(nodes, {name: size.resources for name, size in sizes.items()}))
    with slots.admitted("half", trial_request(sizes["half"]), trials=9):
        assert all(slots.acquire("half", trial) for trial in "abcd")
        with slots.admitted("whole", trial_request(sizes["whole"]), trials=9):
            slots.release("half", "a")
            slots.release("half", "c")
            assert not slots.acquire("whole", "w"), "b and d run on a card each"
            slots.release("half", "d")
            assert slots.acquire("half", "e")
            assert slots.acquire("whole", "w")
    with slots.admitted("whole", trial_request(sizes["whole"]), trials=9):
        assert [slots.acquire("whole", trial) for trial in "xyz"] == [True, True, False], (
            "a search leaves nothing behind"
        )


def test_a_limit_bounds_a_search_below_the_capacity_of_all_nodes() -> None:
    slots = Slots({"CPU": 4}, {"a": 2})
    with slots.admitted("a", ONE, trials=9):
        assert [slots.acquire("a", str(trial)) for trial in range(3)] == [True, True, False]
        with slots.admitted("b", ONE, trials=9):
            assert [slots.acquire("b", str(trial)) for trial in range(3)] == [True, True, False]


def test_a_search_that_needs_everything_waits_until_the_others_have_left() -> None:
    slots = Slots({"CPU": 2})
    events: list[str] = []

    def large() -> None:
        with slots.admitted("large", TWO, trials=1):
            events.append("large admitted")
            events.append(f"large acquires: {slots.acquire('large', 'x7')}")

    thread = threading.Thread(target=large)
    with slots.admitted("small", ONE, trials=1):
        thread.start()
        thread.join(0.2)
        assert slots.acquire("small", "first")
        events.append("small leaves")
    thread.join(60)
    assert events == ["small leaves", "large admitted", "large acquires: True"]


def test_a_search_that_is_told_to_stop_does_not_wait_to_be_admitted() -> None:
    slots = Slots({"CPU": 1})
    with slots.admitted("a", ONE, trials=1):
        assert slots.acquire("a", "first")
        with slots.admitted("b", ONE, trials=1, until=lambda: True):
            assert not slots.acquire("b", "first")


def test_a_trial_that_requests_more_cores_than_there_are_gets_them_all() -> None:
    slots = Slots({"CPU": 2})
    with slots.admitted("large", {"CPU": 16.0}, trials=9):
        assert slots.acquire("large", "first")
        assert not slots.acquire("large", "second")
        slots.release("large", "first")
        assert slots.acquire("large", "second")


def test_one_trial_starts_on_an_idle_cluster_whatever_the_nodes_are_thought_to_hold() -> None:
    """Whether it can run was checked before; a search that waited would wait for ever."""

    class Nothing:
        def place(self, name: str) -> None:
            return None

    slots = Slots({"CPU": 4}, nodes=Nothing)  # type: ignore[arg-type]
    with slots.admitted("a", ONE, trials=9):
        assert [slots.acquire("a", str(trial)) for trial in range(2)] == [True, False]
        slots.release("a", "0")
