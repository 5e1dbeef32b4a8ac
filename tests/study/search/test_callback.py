"""What MLflow gets of trials as they end: one run per stored trial, written once, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import analysis
from study.console import Console, Timeline
from study.search.callback import TrialLog
from study.search.lost_actors import LostActor
from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.spec.space import Choice
from study.tracking.tracker import Tracker, default_uri
from tests.support import recipes
from tests.support.killed import leave_record
from tests.support.recipes import SMALL
from trainables.tasks.micro.intermediate import MicroTopic
from trainables.tasks.translated import in_languages
from trainables.training.attempts import Attempt
from trainables.training.micro_batches import known_limits

STUDY = recipes.inline()
SIZE = STUDY.sizes[0]
DEFAULT = STUDY.space.defaults()[0]
COMPLETE = {"dev_score": 50.0, "test_score": 40.0, "targets_finished": len(STUDY.targets), "test/micro_tagging": 40.0}
PARTIAL = {"dev_score": 30.0, "test_score": 20.0, "targets_finished": 1, "test/micro_tagging": 20.0}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TrialLog]:
    with Tracker(default_uri(tmp_path), STUDY.name, output=tmp_path, offline=True) as tracker:
        yield TrialLog(STUDY, SIZE, tracker, Console(Timeline()))


def _record(
    name: str, outcome: TrialOutcome, *, metrics: dict[str, Any], choice: Choice = DEFAULT, **fields: Any
) -> TrialRecord:
    return TrialRecord(name, choice, outcome, metrics, **fields)


def _frames(log: TrialLog) -> analysis.StudyFrames:
    return log.tracker.read(lambda uri: analysis.load(uri, STUDY.name))


def _outbox_size(log: TrialLog) -> int:
    return (log.tracker.output / "outbox" / "journal.jsonl").stat().st_size


def test_a_retried_repeat_is_another_run_and_counts_once(log: TrialLog) -> None:
    seeded = dataclasses.replace(DEFAULT, seed=1)
    name, metrics = "t0000-s1", {**COMPLETE, "test_score": 42.0}
    repeats = (
        _record(name, TrialOutcome.FAILED, metrics=PARTIAL, choice=seeded, reason="lost", retried=True),
        _record(f"{name}-again", TrialOutcome.COMPLETE, metrics=metrics, choice=seeded),
    )
    result = SearchResult(SIZE.name, (_record("t0000", TrialOutcome.COMPLETE, metrics=COMPLETE),), repeats)
    log.log_missing(result)
    size = _outbox_size(log)
    log.log_missing(result)
    assert _outbox_size(log) == size, "the second call writes nothing"
    failed = f"repeat:{SIZE.name}:{name}"
    assert (log.tracker.tag(failed, "outcome"), log.tracker.tag(failed, "reason")) == ("failed", "lost")
    assert log.tracker.tag(f"{failed}-again", "outcome") == "complete"
    trials = _frames(log).trials
    assert list(trials["trial_id"]) == ["t0000", "t0000-s1-again"]
    assert list(trials["repeats"]) == ["", "t0000"]
    assert list(trials["seed"]) == [0, 1]
    assert list(trials["test_score"]) == [40.0, 42.0]
    assert trials["default_cell"].all()


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(TrialOutcome.FAILED, "its node was lost"), (TrialOutcome.DIVERGED, "diverged: loss nan at step 3")],
)
def test_a_trial_is_written_when_it_ends_and_once(log: TrialLog, outcome: TrialOutcome, reason: str) -> None:
    failed = _record("t0000", outcome, metrics={}, reason=reason)
    log.log_end(failed)
    (trial,) = _frames(log).trials.to_dict("records")
    assert (trial["trial_id"], trial["outcome"], trial["reason"]) == ("t0000", "failed", reason)
    size = _outbox_size(log)
    log.log_missing(SearchResult(SIZE.name, (failed,)))
    assert _outbox_size(log) == size


@pytest.mark.parametrize("error", [OSError("no space"), ValueError("no parquet file")])
def test_an_end_that_cannot_be_written_does_not_end_the_sweep_and_is_written_later(
    log: TrialLog, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = dataclasses.replace(log, console=Console(Timeline()))  # on the standard error that `capsys` captures
    trial, run = _record("t0000", TrialOutcome.COMPLETE, metrics=COMPLETE), f"trial:{SIZE.name}:t0000"

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("study.search.callback.write_examples", fail)
        log.log_end(trial)
    assert log.tracker.tag(run, "outcome") is None
    problem = f"t0000: its end could not be written ({type(error).__name__}: {error}); run the command again"
    assert problem in capsys.readouterr().err
    log.log_missing(SearchResult(SIZE.name, (trial,)))
    assert log.tracker.tag(run, "outcome") == "complete"


class Observer:
    """Remembers what it was told, and always answers the same."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Choice]] = []

    def trial_started(self, size: str, choice: Choice) -> None:
        self.told.append(("started", size, choice))

    def trial_ended(self, size: str, choice: Choice) -> None:
        self.told.append(("ended", size, choice))

    def repeating(self, size: str, repeats: Sequence[Choice]) -> None:
        raise AssertionError

    def searched(self, size: str) -> None:
        raise AssertionError

    def time_left(self) -> str:
        return "about 3 minutes left"


def _trial(report: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(config={"trial": "t0001", **dataclasses.asdict(DEFAULT)}, last_result=report)


def test_each_end_is_a_console_line_with_its_number_and_the_study_s_time_left(
    log: TrialLog, capsys: pytest.CaptureFixture[str]
) -> None:
    observer = Observer()
    log = dataclasses.replace(log, console=Console(Timeline()), observer=observer)
    log.expect(8, finished=1)
    log.on_trial_start(0, [], _trial(COMPLETE))
    log.on_trial_complete(1, [], _trial(COMPLETE))
    log.on_trial_error(2, [], _trial(COMPLETE))
    for report in (PARTIAL, {"diverged": "loss nan"}, {"error": "x"}, {"storage": "full"}, COMPLETE):
        log.on_trial_complete(3, [], _trial(report))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("]   ")[2] for line in lines[1::2]] == 7 * ["study: about 3 minutes left"]
    endings = [line.partition(f"{SIZE.name} trial ")[2].partition(": none")[0] for line in lines[::2]]
    assert endings == [
        *("2/8 done", "3/8 failed", "4/8 stopped early", "5/8 diverged", "6/8 failed"),
        *("7/8 postponed: the output folder cannot be written", "8/8 done"),
    ]
    assert observer.told == [("started", SIZE.name, DEFAULT), *(7 * [("ended", SIZE.name, DEFAULT)])]


def test_a_report_shows_the_target_s_own_score_beside_the_mean(
    log: TrialLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log = dataclasses.replace(log, console=Console(Timeline()))
    tagging, entailment, bitext = (task.name for task in STUDY.targets)
    one = {f"dev/{tagging}": 63.1, "dev_score": 63.1, "test_score": 60.0, "targets_finished": 1}
    two = {**one, f"dev/{entailment}": 79.3, "dev_score": 71.2, "targets_finished": 2}
    three = {**two, f"test/{bitext}": 20.0, "targets_finished": 3}
    for report in (one, two, three):
        log.on_trial_result(1, [], _trial(report), report)
    lines = [line.partition(f"{SIZE.name} t0001 (none): ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        f"{tagging} dev 63.1, mean of 1 target 63.1",
        f"{entailment} dev 79.3, mean of 2 targets 71.2",
        f"{bitext} test 20.0, without dev, mean of 2 targets 71.2",
    ]


@pytest.mark.parametrize("for_memory", [True, False])
def test_only_a_kill_for_memory_halves_the_micro_batch_and_is_recorded(
    for_memory: bool, log: TrialLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = dataclasses.replace(log, console=Console(Timeline()))  # on the standard error that `capsys` captures
    output = log.tracker.output
    leave_record(output, f"{SIZE.name}-t0000", Attempt("tune", 64, 1))
    error = tmp_path / "error.pkl"
    error.write_bytes(pickle.dumps(LostActor("gone", for_memory=for_memory)))
    config = {"trial": "t0000", **dataclasses.asdict(DEFAULT)}
    trial = SimpleNamespace(config=config, pickled_error_file=str(error))
    log.on_trial_recover(0, [], trial)
    change = "tune with micro-batches of 32 rows instead of 64"
    said = f"{SIZE.name} t0000 starts again: gone" + (f"; {change}" if for_memory else "")
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)
    assert known_limits(output, SIZE.resources) == ({"tune": 32} if for_memory else {})
    if for_memory:
        assert log.tracker.tag(f"trial:{SIZE.name}:t0000", "killed_for_memory") == f"yes; {change}"


def test_a_trial_is_tagged_with_the_languages_that_its_intermediate_task_is_trained_in(log: TrialLog) -> None:
    task = in_languages(MicroTopic(**SMALL), ("en", "de", "zh"))
    study = dataclasses.replace(STUDY, space=dataclasses.replace(STUDY.space, intermediates=(task,)))
    log = dataclasses.replace(log, study=study)
    for name, choice in zip(("t0000", "t0001"), study.space.defaults(), strict=True):
        log.log_end(_record(name, TrialOutcome.FAILED, metrics={}, choice=choice, reason="lost"))
    tags = [log.tracker.tag(f"trial:{SIZE.name}:{name}", "training_languages") for name in ("t0000", "t0001")]
    assert tags == [None, "de, zh"]


def test_a_run_in_place_of_collapsed_ones_is_tagged_with_their_names(log: TrialLog) -> None:
    record = _record("t0000-s3", TrialOutcome.FAILED, metrics={}, choice=DEFAULT, reason="lost")
    log.log_end(dataclasses.replace(record, in_place_of=("t0000", "t0001")))
    assert log.tracker.tag(f"repeat:{SIZE.name}:t0000-s3", "in_place_of") == "t0000, t0001"
