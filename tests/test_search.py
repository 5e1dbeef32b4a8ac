"""The search's own pieces: what Optuna is told, which trials ASHA may stop, and how trials are ranked."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest

from study.search import HonestOptunaSearch, SearchResult, TrialRecord, choice_of, run_search, tune_config
from study.spec import Choice, InvalidStudy
from tests import recipes

STUDY = recipes.tiny()
SIZE = STUDY.sizes[0]


def _search() -> HonestOptunaSearch:
    search = tune_config(STUDY, SIZE, concurrent=1).search_alg
    assert isinstance(search, HonestOptunaSearch)
    return search


def _states(search: HonestOptunaSearch) -> list[str]:
    """States of the trials that were proposed; enqueued ones wait."""
    return [trial.state.name for trial in search._ot_study.trials if trial.state.name != "WAITING"]


def test_every_intermediate_is_proposed_once_at_the_defaults_before_the_sampler_takes_over() -> None:
    search = _search()
    proposed = [choice_of(search.suggest(f"t{number}") or {}) for number in range(len(STUDY.space.names))]
    assert proposed == STUDY.space.defaults()


def test_the_learning_rate_of_no_intermediate_is_none() -> None:
    config = _search().suggest("t0")
    assert config is not None
    assert config["intermediate"] == "none"
    assert config["lr_intermediate"] == "none"
    assert choice_of(config).lr_intermediate is None


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [
        ({"dev_score": 50.0, "targets_finished": 3}, False, "COMPLETE"),
        ({"dev_score": 50.0, "targets_finished": 1}, False, "PRUNED"),
        ({"dev_score": math.nan, "targets_finished": 3}, False, "FAIL"),
        ({"diverged": "at step 3"}, False, "FAIL"),
        (None, False, "FAIL"),
        ({"dev_score": 50.0, "targets_finished": 2}, True, "FAIL"),
    ],
)
def test_optuna_is_told_the_truth(result: dict[str, Any] | None, error: bool, state: str) -> None:
    search = _search()
    search.suggest("t0")
    if result and "dev_score" in result:
        search.on_trial_result("t0", {**result, "training_iteration": 1})
    search.on_trial_complete("t0", result, error)
    search.on_trial_complete("t0", result, error)  # Tune may say it twice
    assert _states(search) == [state]


def test_the_searcher_survives_being_saved(tmp_path: Path) -> None:
    search = _search()
    search.suggest("t0")
    search.on_trial_complete("t0", {"dev_score": 10.0, "targets_finished": 3})
    search.save(str(tmp_path / "state"))
    again = _search()
    again.restore(str(tmp_path / "state"))
    assert _states(again)[:1] == ["COMPLETE"]
    assert again._ot_study.best_trial.state == optuna.trial.TrialState.COMPLETE


def test_asha_stops_a_bad_trial_but_never_a_default_cell() -> None:
    """A tenth trial far below nine others at the first rung is stopped, unless it is a default cell."""

    class Trial:
        def __init__(self, name: str, config: dict[str, Any]) -> None:
            self.trial_id, self.config = name, config

    default = {"intermediate": "none", "lr_target": STUDY.space.lr_target[0]}
    sampled = {"intermediate": "none", "lr_target": STUDY.space.lr_target[1]}
    for config, verdict in ((sampled, "STOP"), (default, "CONTINUE")):
        scheduler = pickle.loads(pickle.dumps(tune_config(STUDY, SIZE, concurrent=1).scheduler))
        for number in range(9):
            other = Trial(f"t{number}", default)
            scheduler.on_trial_add(None, other)
            scheduler.on_trial_result(None, other, {"targets_finished": 1, "dev_score": 80.0 + number})
        last = Trial("last", config)
        scheduler.on_trial_add(None, last)
        assert scheduler.on_trial_result(None, last, {"targets_finished": 1, "dev_score": 1.0}) == verdict


def test_only_complete_trials_are_ranked_and_on_dev_alone() -> None:
    choice = Choice("none", None, 1e-3)

    def trial(name: str, outcome: str, dev: float, test: float) -> TrialRecord:
        return TrialRecord(name, choice, outcome, {"dev_score": dev, "test_score": test, "targets_finished": 3})

    result = SearchResult(
        "1x32",
        (
            trial("stopped", "stopped_early", 99.0, 99.0),
            trial("best", "complete", 60.0, 10.0),
            trial("test", "complete", 50.0, 90.0),
        ),
    )
    assert result.best is not None
    assert result.best.trial_id == "best"
    assert SearchResult("1x32", ()).best is None


def test_a_finished_search_is_read_back_as_it_was(tmp_path: Path) -> None:
    result = SearchResult("1x32", (TrialRecord("a", Choice("none", None, 1e-3), "failed", {}, "why"),))
    (tmp_path / "tune").mkdir()
    result.save(tmp_path / "tune" / "1x32.json")
    none: Any = None
    assert run_search(STUDY, SIZE, tmp_path, concurrent=1, progress=none, callbacks=[]) == result


def test_a_study_says_all_that_is_wrong_with_it_at_once() -> None:
    with pytest.raises(InvalidStudy) as caught:
        dataclasses.replace(
            STUDY, name="Tiny Study", trials=1, reduction_factor=1, targets=STUDY.targets[::-1], sizes=(SIZE, SIZE)
        )
    said = "\n".join(caught.value.errors)
    for field in ("name 'Tiny Study'", "trials 1", "reduction_factor 1", "targets: the first", "'1x32' appears twice"):
        assert field in said
