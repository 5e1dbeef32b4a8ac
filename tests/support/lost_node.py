"""A node of Ray that is lost, in a process that is not connected to any."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, SimpleNamespace
from typing import NoReturn

import pytest
import ray

from study.cluster.node_watch import LOST

TERMINATED = 128 + signal.SIGTERM


@dataclass
class OwnNode:
    """The node that this process is on; `lost` is what Ray knows of it."""

    lost: bool = False


@contextmanager
def own_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnNode]:
    """Connected to a Ray with one node in this block, where SIGTERM raises SystemExit, as in a run."""
    node = OwnNode()

    def handle(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "own"))
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "own", "Alive": not node.lost}])
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    former = signal.signal(signal.SIGTERM, handle)
    try:
        yield node
    finally:
        signal.signal(signal.SIGTERM, former)


def ends_with_the_reason(ended: pytest.ExceptionInfo[SystemExit], capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether the process was ended as after SIGTERM, with one line that says why."""
    return ended.value.code == TERMINATED and capsys.readouterr().err.splitlines()[-1] == f"error: {LOST}"
