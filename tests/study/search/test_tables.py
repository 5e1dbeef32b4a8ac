"""What the console shows of a size when its search has ended."""

from __future__ import annotations

import io

from rich.console import Console

from study.search.records import TrialOutcome, TrialRecord
from study.search.tables import target_table
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
