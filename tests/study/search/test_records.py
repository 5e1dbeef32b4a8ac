"""How the trials of a search are ranked and counted."""

from __future__ import annotations

from dataclasses import replace

from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.spec.space import Choice


def _trial(name: str, outcome: TrialOutcome, *, dev: float, test: float) -> TrialRecord:
    metrics = {"dev_score": dev, "test_score": test, "targets_finished": 3}
    return TrialRecord(name, Choice("none", None, 1e-3), outcome, metrics)


def test_complete_trials_alone_are_ranked_and_by_dev_score_alone() -> None:
    trials = (
        _trial("stopped", TrialOutcome.STOPPED_EARLY, dev=99.0, test=99.0),
        _trial("best", TrialOutcome.COMPLETE, dev=60.0, test=10.0),
        _trial("second", TrialOutcome.COMPLETE, dev=50.0, test=90.0),
        _trial("equal", TrialOutcome.COMPLETE, dev=50.0, test=95.0),
        _trial("diverged", TrialOutcome.DIVERGED, dev=98.0, test=98.0),
    )
    result = SearchResult("1x32", trials)
    assert [trial.trial_id for trial in result.ranked] == ["best", "second", "equal"]
    assert result.best is trials[1]
    assert SearchResult("1x32", ()).best is None


def test_the_baseline_is_the_best_complete_trial_without_an_intermediate_task() -> None:
    trained = replace(_trial("trained", TrialOutcome.COMPLETE, dev=60.0, test=1.0), choice=Choice("topic", 1e-3, 1e-3))
    stopped = _trial("stopped", TrialOutcome.STOPPED_EARLY, dev=59.0, test=1.0)
    failed = _trial("failed", TrialOutcome.FAILED, dev=58.0, test=1.0)
    worse, better = (_trial(f"plain {dev}", TrialOutcome.COMPLETE, dev=dev, test=1.0) for dev in (40.0, 50.0))
    result = SearchResult("1x32", (trained, stopped, failed, worse, better))
    assert (result.best, result.baseline) == (trained, better)
    assert SearchResult("1x32", (trained, stopped, failed)).baseline is None
    joint = replace(
        _trial("joint", TrialOutcome.COMPLETE, dev=55.0, test=1.0), choice=Choice("joint_topic", None, 1e-3)
    )
    assert SearchResult("1x32", (joint, better)).baseline is better  # an arm may have no intermediate rate either
    alone = SearchResult("1x32", (better, worse))
    assert alone.baseline is alone.best


def test_a_diverged_trial_is_tagged_failed_and_never_retried() -> None:
    tags = {outcome: outcome.tag for outcome in TrialOutcome}
    assert tags == {
        TrialOutcome.COMPLETE: "complete",
        TrialOutcome.STOPPED_EARLY: "stopped_early",
        TrialOutcome.FAILED: "failed",
        TrialOutcome.DIVERGED: "failed",
    }
    retriable = {outcome for outcome in TrialOutcome if _trial("t", outcome, dev=1.0, test=1.0).retriable}
    assert retriable == {TrialOutcome.FAILED}
