"""The page on arms has the tables that its command prints from the committed run."""

from __future__ import annotations

import analysis
from analysis.report.findings import Findings
from study.recipes.micro_arms import micro_arms
from tests.benchmarks import arms_results
from tests.benchmarks.laptop_results import filled


def test_the_page_has_the_tables_that_the_command_prints() -> None:
    page = arms_results.PAGE.read_text(encoding="utf-8")
    tables = arms_results.blocks(Findings(analysis.read_saved(arms_results.RUN)))
    assert filled(page, tables) == page, "run `python -m tests.benchmarks.arms_results --write`"


def test_the_run_has_every_arm_of_the_recipe_with_every_seed() -> None:
    frames, study = analysis.read_saved(arms_results.RUN), micro_arms()
    assert set(frames.trials["intermediate"]) == set(study.space.names)
    assert study.repeats is not None
    assert set(frames.trials.groupby("intermediate")["seed"].nunique()) == {1 + study.repeats.seeds}
