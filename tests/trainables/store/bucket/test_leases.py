"""Leases: one holder at a time, released, taken over from the dead and from those who stopped renewing, and lost by these."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from tests.support.object_http import Fault, ObjectServer
from tests.support.waiting import wait_for
from trainables.store.bucket import leases
from trainables.store.bucket.client import ObjectStore, object_store
from trainables.store.bucket.leases import Holder, Lease, Leases

NAME = "claims/x.json"
_HOLDER = """
import sys
from trainables.store.bucket.client import object_store
from trainables.store.bucket.leases import Leases
print(type(Leases(object_store(sys.argv[1])).try_take("claims/x.json")).__name__, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(object_server: ObjectServer) -> ObjectStore:
    return object_store(object_server.new_url())


@pytest.fixture
def any_store(cloud: ObjectServer) -> ObjectStore:
    """Of each protocol in turn: their conditions on a put differ."""
    return object_store(cloud.new_url())


def taken(lease: Lease | Holder) -> Lease:
    assert isinstance(lease, Lease), str(lease)
    return lease


def on_another_machine() -> Any:
    """Takers in the block seem to run on another machine: no process tells whether they live."""
    return mock.patch.object(leases, "_boot", return_value="another machine")


def test_a_lease_has_one_holder_who_is_named_and_releases_it(any_store: ObjectStore) -> None:
    with taken(Leases(any_store).try_take(NAME)) as first:
        refused = Leases(any_store).try_take(NAME)
        assert isinstance(refused, Holder)
        assert str(refused).startswith("process ")
    with taken(Leases(any_store).try_take(NAME)) as second:
        assert second.token > first.token


def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(store: ObjectStore) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, store.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "Lease"
    assert isinstance(Leases(store).try_take(NAME), Holder)
    holder.kill()
    # Its parent need not have asked for its exit status, as in a container whose first process never does.
    wait_for(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE)
    taken(Leases(store).try_take(NAME)).release()
    holder.communicate()


def test_a_contender_for_whom_the_store_was_away_gives_the_holder_its_time_again(store: ObjectStore) -> None:
    """Neither could reach the store, so a lease that looks old may be one that could not be renewed."""
    now_s = [0.0]
    with on_another_machine():
        held = taken(Leases(store, lease_s=3600.0).try_take(NAME))
    contender = Leases(store, lease_s=60.0, clock=lambda: now_s[0])
    for now_s[0] in (0.0, 20.0, 110.0, 130.0, 150.0, 169.0):
        assert isinstance(contender.try_take(NAME), Holder), now_s
    now_s[0] = 171.0
    taken(contender.try_take(NAME)).release()
    held.release()


def test_a_step_of_the_wall_clock_does_not_make_a_holder_look_dead(store: ObjectStore) -> None:
    with taken(Leases(store).try_take(NAME)):
        later = time.time() + 3600.0
        with mock.patch("psutil._pslinux.boot_time", return_value=later), mock.patch("time.time", return_value=later):
            assert isinstance(Leases(store).try_take(NAME), Holder)


def test_a_lease_names_when_its_process_started_in_clock_ticks(store: ObjectStore, tmp_path: Path) -> None:
    """Also of a program whose name looks like other fields of its status."""
    program = tmp_path / "a) S 1 (b"
    program.symlink_to(sys.executable)
    holder = subprocess.Popen(
        [program, "-c", _HOLDER, store.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "Lease"
    present = store.get(NAME)
    assert present is not None
    ticks = json.loads(present.content)["start_ticks"]
    since_boot_s = psutil.Process(holder.pid).create_time() - psutil.boot_time()
    assert ticks / os.sysconf("SC_CLK_TCK") == pytest.approx(since_boot_s, abs=2.0)
    assert isinstance(Leases(store).try_take(NAME), Holder)
    holder.kill()
    holder.communicate()


def test_of_two_processes_with_one_id_the_lease_is_of_the_earlier(store: ObjectStore) -> None:
    held = taken(Leases(store).try_take(NAME))
    present = store.get(NAME)
    assert present is not None
    document = json.loads(present.content)
    store.put(NAME, json.dumps({**document, "start_ticks": document["start_ticks"] - 1}).encode())
    taken(Leases(store).try_take(NAME)).release()
    held.release()


def test_a_lease_that_is_renewed_is_never_taken_over(store: ObjectStore) -> None:
    with on_another_machine():
        held = taken(Leases(store, lease_s=0.6).try_take(NAME))
    contender = Leases(store, lease_s=0.6)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert isinstance(contender.try_take(NAME), Holder)
        time.sleep(0.05)
    held.release()


def test_a_holder_that_stopped_renewing_loses_it_and_learns_so(any_store: ObjectStore) -> None:
    """As one that was stopped: another takes over after the lease's time on its own clock, whatever the holder's clock says."""
    now = [0.0]
    contender = Leases(any_store, lease_s=30.0, clock=lambda: now[0])
    with on_another_machine():
        stopped = taken(Leases(any_store, lease_s=3.0).try_take(NAME))  # its next renewal is in half a second
        refused = contender.try_take(NAME)
    assert isinstance(refused, Holder)
    now[0] = 15.0
    assert isinstance(contender.try_take(NAME), Holder)
    now[0] = 31.0
    successor = taken(contender.try_take(NAME))
    assert successor.token == stopped.token + 1
    until = time.monotonic() + 20.0
    while not stopped.lost:
        assert time.monotonic() < until
        time.sleep(0.05)
    stopped.release()
    assert isinstance(Leases(any_store).try_take(NAME), Holder), "it did not release its successor's"
    successor.release()


def test_a_renewal_whose_answer_was_lost_is_no_loss(
    any_store: ObjectStore, cloud: ObjectServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store applied it, and did not answer for longer than a client's patience."""
    monkeypatch.setattr(any_store, "_patience_s", 0.0)
    held = taken(Leases(any_store, lease_s=0.6).try_take(NAME))
    for _ in range(2):
        before = any_store.get(NAME)
        cloud.faults.append(Fault("PUT", NAME, lose="answer", times=10**6))
        caplog.clear()
        wait_for(lambda: "was not renewed" in caplog.text)
        cloud.faults.clear()
        lost = any_store.get(NAME)
        assert lost != before, "it was applied"
        wait_for(lambda lost=lost: held.lost or any_store.get(NAME) != lost)  # type: ignore[misc]
        assert not held.lost
    assert isinstance(Leases(any_store).try_take(NAME), Holder)
    held.release()
    taken(Leases(any_store).try_take(NAME)).release()


def test_a_damaged_lease_is_taken_over_after_its_time(any_store: ObjectStore) -> None:
    any_store.put(NAME, b"garbage")
    now = [0.0]
    contender = Leases(any_store, lease_s=30.0, clock=lambda: now[0])
    assert isinstance(contender.try_take(NAME), Holder)
    now[0] = 15.0
    assert isinstance(contender.try_take(NAME), Holder)
    now[0] = 31.0
    taken(contender.try_take(NAME)).release()
