"""What MLflow gets of trials as they end: each trial of the ledger one run, written once, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import analysis
from study.console import Screen, Timeline
from study.search.callback import TrialLog
from study.search.trial_store import SearchResult, TrialRecord
from study.spec.space import Choice
from study.tracking.tracker import Tracking, default_uri
from tests.support import recipes

STUDY = recipes.inline()
SIZE = STUDY.sizes[0]
DEFAULT = STUDY.space.defaults()[0]
DONE = {"dev_score": 50.0, "test_score": 40.0, "targets_finished": len(STUDY.targets), "test/micro_tagging": 40.0}
PART = {"dev_score": 30.0, "test_score": 20.0, "targets_finished": 1, "test/micro_tagging": 20.0}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TrialLog]:
    with Tracking(default_uri(tmp_path), STUDY.name, tmp_path, offline=True) as tracking:
        yield TrialLog(STUDY, SIZE, tracking, Screen(Timeline()))


def _record(name: str, outcome: Any, metrics: dict[str, Any], *, choice: Choice = DEFAULT, **more: Any) -> TrialRecord:
    return TrialRecord(name, choice, outcome, metrics, **more)


def _frames(log: TrialLog) -> analysis.StudyFrames:
    return log.tracking.read(lambda uri: analysis.load(uri, STUDY.name))


def test_a_repeat_that_was_tried_again_is_another_run_and_counts_once(log: TrialLog) -> None:
    seeded = dataclasses.replace(DEFAULT, seed=1)
    result = SearchResult(
        SIZE.name,
        (_record("t0000", "complete", DONE),),
        (
            _record("t0000-s1", "failed", PART, choice=seeded, reason="lost", retried=True),
            _record("t0000-s1-again", "complete", {**DONE, "test_score": 42.0}, choice=seeded),
        ),
    )
    log.settle(result)
    journal = log.tracking.output / "outbox" / "journal.jsonl"
    size = journal.stat().st_size
    log.settle(result)
    assert journal.stat().st_size == size, "the second time wrote something"
    failed = f"repeat:{SIZE.name}:t0000-s1"
    assert (log.tracking.tag(failed, "outcome"), log.tracking.tag(failed, "reason")) == ("failed", "lost")
    assert log.tracking.tag(f"{failed}-again", "outcome") == "complete"
    trials = _frames(log).trials
    assert list(trials["trial_id"]) == ["t0000", "t0000-s1-again"]
    assert list(trials["repeats"]) == ["", "t0000"]
    assert list(trials["seed"]) == [0, 1]
    assert list(trials["test_score"]) == [40.0, 42.0]
    assert trials["default_cell"].all()


def test_a_trial_is_written_when_it_has_ended_and_once(log: TrialLog) -> None:
    failed = _record("t0000", "failed", {}, reason="its node was lost")
    log.ended(failed)
    (trial,) = _frames(log).trials.to_dict("records")
    assert (trial["trial_id"], trial["outcome"], trial["reason"]) == ("t0000", "failed", "its node was lost")
    journal = log.tracking.output / "outbox" / "journal.jsonl"
    size = journal.stat().st_size
    log.settle(SearchResult(SIZE.name, (failed,)))
    assert journal.stat().st_size == size


@pytest.mark.parametrize("error", [OSError("no space"), ValueError("no parquet file")])
def test_what_cannot_be_written_ends_no_sweep_and_is_written_later(
    log: TrialLog, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = dataclasses.replace(log, screen=Screen(Timeline()))  # of the standard error that is looked at
    trial, run = _record("t0000", "complete", DONE), f"trial:{SIZE.name}:t0000"

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("study.search.callback.write_examples", fail)
        log.ended(trial)
    assert log.tracking.tag(run, "outcome") is None
    assert f"t0000: its end could not be written, run the command again: {type(error).__name__}" in (
        capsys.readouterr().err
    )
    log.settle(SearchResult(SIZE.name, (trial,)))
    assert log.tracking.tag(run, "outcome") == "complete"


def test_trials_are_counted_from_those_that_are_finished(log: TrialLog, capsys: pytest.CaptureFixture[str]) -> None:
    now_s = itertools.count(
        1000.0, 10.0
    )  # of the first start, then of each end; what was before it was waiting for room
    log = dataclasses.replace(log, screen=Screen(Timeline()), clock=lambda: next(now_s))
    trial = SimpleNamespace(config={"trial": "t0001", **dataclasses.asdict(DEFAULT)}, last_result=DONE)
    log.expect(4, finished=1)
    log.on_trial_start(0, [], trial)
    log.on_trial_start(0, [], trial)
    log.on_trial_complete(1, [], trial)
    log.on_trial_error(2, [], trial)
    log.on_trial_complete(3, [], trial)
    first, second, third = capsys.readouterr().err.splitlines()
    assert "trial 2/4 done" in first
    assert first.endswith("about 20 s for 2 more")
    assert "trial 3/4 failed" in second
    assert "trial 4/4 done" in third
    assert "more" not in third
