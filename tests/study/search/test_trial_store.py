"""The journal of a study's searches: partial lines, damage, and trials that MLflow has and the journal lost."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.console import Console, Timeline
from study.run import driver
from study.run.driver import RunOptions, run_study
from study.search.callback import TrialLog
from study.search.journal import JOURNAL, TrialStoreBroken, open_journal
from study.search.records import TrialOutcome, TrialRecord
from study.search.trial_store import TrialStore, check_nothing_lost, repeats_name
from study.tracking.tracker import Tracker, default_uri
from tests.study.search.conftest import COMPLETE, SIZE, STUDY, MakeSearcher
from tests.support import recipes


def test_a_partial_last_line_is_removed_and_its_trial_resumes(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", COMPLETE)
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(content[:-20])  # cuts the line that ends the trial
    resumed = make_searcher(tmp_path)
    assert list(resumed.trial_store.unfinished) == [0]
    assert (resumed.suggest("u0") or {})["trial"] == "t0000"


def test_an_unreadable_journal_is_refused_and_kept(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    make_searcher(tmp_path).suggest("t0")
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(b"\0" * 100 + b"\n" + content)
    with pytest.raises(TrialStoreBroken, match=r"cannot be read .*another --output"):
        make_searcher(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes().endswith(content)


def test_a_byte_that_changed_inside_a_score_is_found(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", COMPLETE)
    content = (tmp_path / JOURNAL).read_bytes()
    at = re.search(rb'"dev_score":\d', content)
    assert at is not None
    (tmp_path / JOURNAL).write_bytes(content[: at.end() - 1] + b"9" + content[at.end() :])
    with pytest.raises(TrialStoreBroken, match="has changed since it was written"):
        make_searcher(tmp_path)


def test_a_complete_trial_that_lost_its_scores_is_found(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path)
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", COMPLETE)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join(line for line in lines if b'"dev_score"' not in line))
    with pytest.raises(TrialStoreBroken, match="t0000 is complete and lacks its scores"):
        make_searcher(tmp_path)


@pytest.fixture
def searched(make_searcher: MakeSearcher, tmp_path: Path) -> set[str]:
    """A folder with three trials, one of them unfinished, and a repeat, in journal and outbox; returns their names."""
    searcher = make_searcher(tmp_path)
    with Tracker(default_uri(tmp_path), STUDY.name, output=tmp_path, offline=True) as tracker:
        log = TrialLog(STUDY, SIZE, tracker, Console(Timeline()))
        for number in range(3):
            config = searcher.suggest(f"t{number}") or {}
            log.on_trial_result(0, [], SimpleNamespace(config=config), COMPLETE)
            if number < 2:
                searcher.on_trial_complete(f"t{number}", COMPLETE)
        repeats = TrialStore(open_journal(tmp_path), repeats_name(SIZE.name), space=STUDY.space, repeats=True)
        choice = dataclasses.replace(searcher.trial_store.records[0].choice, seed=1)
        repeats.start(choice, "t0000-s1")
        config = {"trial": "t0000-s1", **dataclasses.asdict(choice)}
        log.on_trial_result(0, [], SimpleNamespace(config=config), COMPLETE)
        assert tracker.trials == {SIZE.name: {"t0000", "t0001", "t0002", "t0000-s1"}}
        return tracker.trials[SIZE.name]


def test_a_journal_that_lacks_trials_with_results_is_refused(searched: set[str], tmp_path: Path) -> None:
    """Cut at any line, or empty: new trials would be named t0000 and so on, like runs that MLflow has already."""
    lost = []
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        (tmp_path / JOURNAL).write_bytes(b"".join(lines[:count]))
        storage = open_journal(tmp_path)
        try:
            check_nothing_lost(storage, tmp_path, known={SIZE.name: searched})
        except TrialStoreBroken as error:
            message = re.search(r"lacks (\d) of the 4 trials of size 1x32.*complete copy.*another --output", str(error))
            assert message is not None
            lost.append(int(message[1]))
        else:
            lost.append(0)
        assert (tmp_path / JOURNAL).read_bytes() == b"".join(lines[:count]), "the check writes nothing"
    assert lost == sorted(lost, reverse=True)
    assert sorted(set(lost)) == [0, 1, 2, 3, 4]
    check_nothing_lost(storage, tmp_path, known={})
    with pytest.raises(TrialStoreBroken, match="lacks 1 of the 2 trials of size 1x32, 1 of the 1 trials of size other"):
        check_nothing_lost(storage, tmp_path, known={SIZE.name: {"t0001", "t0009"}, "other": {"t0000"}})


@pytest.mark.parametrize("lines_left", [None, 0, 1])
def test_a_study_with_a_lost_journal_is_refused_before_anything_starts(
    searched: set[str], lines_left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("the study started")

    monkeypatch.setattr(driver, "check_data", started)
    study = recipes.tiny()
    journal, outbox = tmp_path / JOURNAL, tmp_path / "outbox" / "journal.jsonl"
    lines, written = journal.read_bytes().splitlines(keepends=True), outbox.read_bytes()
    journal.unlink()
    if lines_left is not None:
        journal.write_bytes(b"".join(lines[:lines_left]))
    for _ in range(2):  # the first refusal leaves nothing that the second could take for a search
        with pytest.raises(TrialStoreBroken, match="lost or cut short: it lacks 4 of the 4 trials of size 1x32"):
            run_study(study, RunOptions(tmp_path, offline=True))
    assert outbox.read_bytes() == written
    journal.write_bytes(b"".join(lines))
    with Tracker(default_uri(tmp_path), study.name, output=tmp_path, offline=True) as tracker:
        check_nothing_lost(open_journal(tmp_path), tmp_path, known=tracker.trials)


def test_a_trial_is_stored_before_anything_else_knows_it(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    """A process that is killed between the two then leaves no trial that only MLflow knows."""
    searcher = make_searcher(tmp_path, cores=3)
    for number in range(3):
        name = (searcher.suggest(f"t{number}") or {})["trial"]
        check_nothing_lost(open_journal(tmp_path), tmp_path, known={SIZE.name: {name}})


def test_what_another_thread_finishes_meanwhile_is_still_tried_and_counted(tmp_path: Path) -> None:
    """Another thread's `finish` comes at the worst moment: while the store's records are read."""
    store = TrialStore(open_journal(tmp_path), SIZE.name, space=STUDY.space)
    first, second = STUDY.space.defaults()

    class FinishesWhenRead(dict[int, Any]):
        def values(self) -> Any:
            yield from list(super().values())
            for number in store.unfinished:
                store.finish(number, TrialOutcome.COMPLETE, metrics=COMPLETE)

    class FinishesWhenAsked(TrialRecord):
        def __getattribute__(self, name: str) -> Any:
            if name == "retried":
                for number in store.unfinished:
                    store.finish(number, TrialOutcome.COMPLETE, metrics=COMPLETE)
            return super().__getattribute__(name)

    number = store.start(first)
    store._records = FinishesWhenRead()
    assert store.tried == {first}
    record = store.records[0]
    store._records = {number: FinishesWhenAsked(record.trial_id, first, TrialOutcome.COMPLETE, COMPLETE)}
    store.start(second)
    assert store.counted == 2
    assert not store.unfinished


def test_the_lock_of_a_killed_process_does_not_block_the_next(make_searcher: MakeSearcher, tmp_path: Path) -> None:
    Path(f"{tmp_path / JOURNAL}.lock").touch()
    assert make_searcher(tmp_path).suggest("t0") is not None
