"""A process ends once the node of Ray that it is on is lost, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import ray
from ray.exceptions import ActorDiedError, LocalRayletDiedError, NodeDiedError, RaySystemError

from study.cluster import connection
from study.cluster.connection import connected
from study.cluster.node_watch import LOST, ending_with_node, is_lost
from study.console import Console, Timeline
from study.errors import StorageFailed
from study.run import pretraining
from study.run.pretraining import prepare_encoders
from tests.support import recipes
from tests.support.commands import ROOT
from tests.support.lost_node import OwnNode, ends_with_the_reason, own_node


def test_only_the_loss_of_this_node_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": "own", "Alive": True}, {"NodeID": "other", "Alive": True}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert not is_lost("own")
    nodes[1]["Alive"] = False
    assert not is_lost("own"), "a worker's node may come back"
    nodes[0]["Alive"] = False
    assert is_lost("own")


def test_a_ray_that_does_not_answer_is_not_taken_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise ray.exceptions.RaySystemError("no answer")

    monkeypatch.setattr(ray, "nodes", fails)
    assert not is_lost("own")


def test_it_ends_the_process_once_and_only_inside_the_block() -> None:
    looks, ended, calls = threading.Semaphore(0), threading.Event(), []
    lost = threading.Event()

    def look(node: str) -> bool:
        assert node == "own"
        looks.release()
        return lost.is_set()

    def end() -> None:
        calls.append("end")
        ended.set()

    with ending_with_node("own", every_s=0.01, lost=look, end=end):
        for _ in range(3):
            assert looks.acquire(timeout=120)
        assert calls == []
        lost.set()
        assert ended.wait(120)
    assert calls == ["end"]
    with ending_with_node("own", every_s=3600.0, lost=look, end=end):
        pass
    assert calls == ["end"]


def test_the_reason_is_printed_and_the_process_ends_as_after_a_signal() -> None:
    program = "from study.cluster.node_watch import interrupt_this_process; interrupt_this_process()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stderr == f"error: {LOST}\n"


# What Ray 2.60 raises after its raylet or an agent of it was killed: at new tasks, at actors that ran, at others; and what the
# project makes of an OSError of Ray in a sweep. The last comes from a write to a socket that nobody reads any more.
OF_A_LOST_NODE = [
    LocalRayletDiedError(),
    ActorDiedError(),
    NodeDiedError("the node died"),
    RaySystemError("the connection was closed"),
    ConnectionError("no answer"),
    StorageFailed("Broken pipe", Path("out")),
    OSError("Broken pipe"),
]
RAYS = [error for error in OF_A_LOST_NODE if isinstance(error, ray.exceptions.RayError)]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnNode]:
    monkeypatch.setattr(connection, "_start", lambda *_: None)
    with own_node(monkeypatch) as node:
        yield node


@pytest.mark.parametrize("error", OF_A_LOST_NODE, ids=lambda error: type(error).__name__)
def test_an_error_that_a_lost_node_causes_ends_the_run_with_the_reason(
    error: Exception, node: OwnNode, capsys: pytest.CaptureFixture[str]
) -> None:
    def search() -> None:
        with connected(None):
            node.lost = True
            raise error

    with pytest.raises(SystemExit) as ended:
        search()
    assert ends_with_the_reason(ended, capsys)


@pytest.mark.parametrize("error", OF_A_LOST_NODE[1:], ids=lambda error: type(error).__name__)
def test_an_error_beside_a_node_that_lives_stays_what_it_is(error: Exception, node: OwnNode) -> None:
    with pytest.raises(type(error)), connected(None):
        raise error


@pytest.mark.parametrize("error", RAYS, ids=lambda error: type(error).__name__)
def test_no_encoder_fails_for_a_lost_node(
    error: Exception,
    node: OwnNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def get(_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(pretraining, "_launched", lambda *_, **__: None)
    monkeypatch.setattr(ray, "get", get)

    def prepare() -> dict[str, str]:
        return prepare_encoders(recipes.inline(), tmp_path, progress_actor=None, console=Console(Timeline()))

    if not isinstance(error, LocalRayletDiedError):
        assert list(prepare()) == ["1x32"], "the node lives: the encoder failed"
    node.lost = True
    with pytest.raises(SystemExit) as ended:
        prepare()
    assert ends_with_the_reason(ended, capsys)
