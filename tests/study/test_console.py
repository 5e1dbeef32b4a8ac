"""Progress of the workers on the console."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from study import console as console_module
from study.console import Console, Timeline


def test_a_progress_actor_that_was_slow_once_is_read_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[Any] = [ray.exceptions.GetTimeoutError("slow"), {"target-a": (1, 10, 0.5)}]

    def get(reference: Any, timeout: float) -> Any:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(console_module, "SHOW_EVERY_S", 0.01)
    monkeypatch.setattr(ray, "get", get)
    progress_actor = SimpleNamespace(read=SimpleNamespace(remote=lambda: None))
    shown = ""
    with Console(Timeline()).watch(progress_actor):
        deadline = time.monotonic() + 10
        while "target-a" not in shown:
            assert time.monotonic() < deadline, "nothing was shown"
            time.sleep(0.01)
            shown += capsys.readouterr().err
    assert "target-a: 1/10, loss 0.500" in shown
