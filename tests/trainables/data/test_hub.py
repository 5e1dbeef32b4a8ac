"""Requests to the hub are repeated where it is busy, and end in one clear error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trainables.data import hub
from trainables.data.source import DataError


class Answered(OSError):
    """As the hub's client raises: the error holds the answer."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"{status} Client Error for url: https://huggingface.co/api")
        self.response = SimpleNamespace(
            status_code=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds slept instead of sleeping; nothing is added at random."""
    slept: list[float] = []
    monkeypatch.setattr("trainables.data.hub.time.sleep", slept.append)
    monkeypatch.setattr("trainables.data.hub.random.uniform", lambda low, high: low)
    return slept


def _loads(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> list[tuple[Any, ...]]:
    """`load_dataset` gives these answers in turn, the last one for ever; returns its calls."""
    calls: list[tuple[Any, ...]] = []

    def load(*arguments: Any, **_: Any) -> Any:
        calls.append(arguments)
        answer = answers[min(len(calls), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("datasets.load_dataset", load)
    return calls


def test_a_busy_hub_is_asked_again_after_growing_pauses(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    wrapped = ConnectionError("Couldn't reach 'a/b' on the Hub")
    wrapped.__cause__ = Answered(503)
    calls = _loads(monkeypatch, Answered(429, Retry_After="60"), wrapped, Answered(429), [{"text": "a"}])
    assert list(hub.load_rows("a/b", None, split="test", revision="c")) == [{"text": "a"}]
    assert len(calls) == 4
    assert pauses == [60.0, 4.0, 8.0], "as long as the hub asks for, or else twice as long each time"


def test_a_limit_that_lasts_is_one_error_that_says_what_helps(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    calls = _loads(monkeypatch, Answered(429))
    with pytest.raises(DataError) as refused:
        hub.load_rows("a/b", None, split="test", revision="c")
    assert str(refused.value) == (
        "a/b: cannot be read from the hub (it refused 8 requests as too many (429): set HF_TOKEN, whose limit is higher); or "
        "give --data-root"
    )
    assert len(calls) == 8
    assert sum(pauses) < 300


@pytest.mark.parametrize("error", [Answered(404), Answered(401), ValueError("no split 'test'")])
def test_an_answer_that_will_not_change_is_not_asked_for_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    calls = _loads(monkeypatch, error)
    with pytest.raises(DataError, match="cannot be read from the hub"):
        hub.load_rows("a/b", None, split="test", revision="c")
    assert (len(calls), pauses) == (1, [])
