"""What the console shows of a size when its search has ended."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.search.tables import describe_choice, target_table, trial_table
from study.spec.space import Choice
from tests.support import recipes


def _shown(**metrics: float) -> str:
    study = recipes.inline()
    trial = TrialRecord("t0", Choice("none", None, 1e-3), TrialOutcome.COMPLETE, {"dev_score": 50.0, **metrics})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(target_table(study, study.sizes[0], trial=trial))
    return console.export_text()


def test_a_score_that_says_little_has_a_remark() -> None:
    target = recipes.inline().targets[0].name
    at_chance = {f"test/{target}": 60.0, f"test_without_english/{target}": 33.0, f"chance/{target}": 33.3}
    assert f"{target}: no better than chance" in _shown(**at_chance)
    assert "one answer to everything in 4 languages" in _shown(**at_chance, **{f"constant/{target}": 4.0})
    assert f"{target}:" not in _shown(**at_chance | {f"test_without_english/{target}": 40.0})


def test_names_of_targets_are_whole_in_eighty_columns() -> None:
    shown = _shown()
    assert all(f" {target.name} " in shown for target in recipes.inline().targets)


def test_rates_are_those_of_the_size_and_whole_in_eighty_columns() -> None:
    size = dataclasses.replace(recipes.inline().sizes[0], rate_factor=2.0)
    choice = Choice("cosmos_qa_validation_as_train", 1e-4, 2.5e-4)
    metrics = {"dev_score": 48.83, "test_score": 30.12, "targets_finished": 8}
    trial = TrialRecord("t0", choice, TrialOutcome.COMPLETE, metrics)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(trial_table(size, SearchResult(size.name, (trial,))))
    shown = console.export_text()
    assert all(f" {value} " in shown for value in ("0.0002", "0.0005", "48.8", "30.1", "complete"))
    assert "…" not in shown
    assert describe_choice(choice, size) == "cosmos_qa_validation_as_train at 0.0002, target at 0.0005"
