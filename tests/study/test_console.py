"""What is shown of the workers: every stage that is under way and no other, also after a board that was slow to answer."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from study import console as progress
from study.cluster.progress_actor import SILENT_S, Latest, Poster
from study.console import Screen, Timeline


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _poster(latest: Latest, clock: Clock) -> Poster:
    """A worker's, to a board in this process."""
    return Poster(SimpleNamespace(post=SimpleNamespace(remote=latest.post)), every_s=2.0, clock=clock)


def test_a_finished_stage_and_the_one_that_a_worker_left_are_not_shown() -> None:
    clock = Clock()
    latest = Latest(clock)
    one, other = _poster(latest, clock), _poster(latest, clock)
    one("target-a", 1, 10, 0.5)
    other("target-b", 1, 10, 0.6)
    assert latest.read() == {"target-a": (1, 10, 0.5), "target-b": (1, 10, 0.6)}
    clock.now = 2.0
    one("target-c", 1, 10, 0.7)  # its trial was stopped in the middle of the first
    other("target-b", 10, 10, 0.1)
    assert latest.read() == {"target-c": (1, 10, 0.7)}


def test_a_stage_that_nobody_posts_any_more_is_dropped() -> None:
    clock = Clock()
    latest = Latest(clock)
    latest.post("killed", 1, 10, 0.5)
    clock.now = 1.0
    latest.post("alive", 1, 10, 0.5)
    clock.now = SILENT_S + 0.5
    assert set(latest.read()) == {"alive"}


def test_a_board_that_was_slow_once_is_read_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[Any] = [ray.exceptions.GetTimeoutError("slow"), {"target-a": (1, 10, 0.5)}]

    def get(reference: Any, timeout: float) -> Any:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(progress, "SHOW_EVERY_S", 0.01)
    monkeypatch.setattr(ray, "get", get)
    board = SimpleNamespace(read=SimpleNamespace(remote=lambda: None))
    shown = ""
    with Screen(Timeline()).watch(board):
        deadline = time.monotonic() + 10
        while "target-a" not in shown:
            assert time.monotonic() < deadline, "nothing was shown"
            time.sleep(0.01)
            shown += capsys.readouterr().err
    assert "target-a: 1/10, loss 0.500" in shown
