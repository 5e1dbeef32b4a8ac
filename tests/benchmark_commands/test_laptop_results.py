"""The page of results has the tables that its command prints from the committed runs, and claims are graded as they should."""

from __future__ import annotations

import dataclasses

import pytest

from analysis import read_saved
from analysis.report.findings import Findings
from study.recipes.laptop import laptop
from tests.analysis.helpers import default_cells, with_chance
from tests.benchmarks import laptop_results
from tests.benchmarks.laptop_claims import claims

TARGETS = ("udpos", "uner_dev_as_train", "tydiqa", "tatoeba")


def test_the_pages_have_the_tables_that_the_command_prints() -> None:
    for page, tables in laptop_results.pages(Findings(laptop_results.committed())).items():
        text = page.read_text(encoding="utf-8")
        assert laptop_results.filled(text, tables) == text, "run `python -m tests.benchmarks.laptop_results --write`"


@pytest.mark.parametrize("size", ["3l", "6l"])
def test_the_recipe_has_the_rate_that_english_dev_chose(size: str) -> None:
    trials = read_saved(laptop_results.DOCS / "measured" / "laptop_rates" / f"{size}.json").trials
    best = trials.sort_values("dev_score")["lr_target"].iloc[-1]
    study = laptop()
    (factor,) = [own.rate_factor for own in study.sizes if own.name == size]
    assert study.space.defaults()[0].lr_target * factor == pytest.approx(best)


@pytest.mark.parametrize(
    ("gain", "seeds", "verdict"),
    [(6.0, 4, "supported"), (-6.0, 4, "not supported"), (0.0, 4, "cannot be told"), (6.0, 1, "cannot be told")],
)
def test_masked_text_beside_a_task_is_graded_against_the_task_alone(gain: float, seeds: int, verdict: str) -> None:
    cells = {"none": 50.0, "snli": 53.0, "snli_with_text": 53.0 + gain, "csqa": 40.0}
    frames = default_cells(cells, sd=0.2, seeds=seeds, targets=TARGETS)
    arms = {"snli": ["snli"], "snli_with_text": ["snli", "masked_lm"], "csqa": ["commonsense_qa"]}
    context = frames.context | {"arms": {name: {"members": tasks, "languages": []} for name, tasks in arms.items()}}
    found = [
        claim for claim in claims(Findings(dataclasses.replace(frames, context=context))) if "Masked" in claim.claim
    ]
    assert [claim.verdict for claim in found] == [verdict]
    assert "snli_with_text" in found[0].claim
    assert found[0].evidence.endswith(" against snli")
    assert not [claim for claim in claims(Findings(frames)) if "Masked" in claim.claim]  # no such cell is recorded


def test_a_seed_of_some_choices_says_nothing_about_the_mean_over_all() -> None:
    """Of the second seed only the choice that loses has been trained."""
    cells = {"none": 50.0, "snli": 60.0, "pos": 40.0}
    frames = with_chance(default_cells(cells, sd=0.2, seeds=2, targets=TARGETS), dict.fromkeys(TARGETS, 0.0))
    missing = (frames.trials["intermediate"] == "snli") & (frames.trials["seed"] == 1)
    kept = set(frames.trials.loc[~missing, "trial_id"])
    parts = {
        name: table[table["trial_id"].isin(kept)] for name in ("trials", "scores") for table in [getattr(frames, name)]
    }
    graded = {claim.claim: claim for claim in claims(Findings(dataclasses.replace(frames, **parts)))}
    (names,) = [claim for text, claim in graded.items() if text.startswith("Named-entity")]
    assert names.verdict == "cannot be told"
    assert "(one seed)" in names.evidence
    assert abs(float(names.evidence.split("mean ")[1].split()[0].replace("−", "-"))) < 1.0


def test_a_table_without_a_place_on_the_page_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place for 'runs'"):
        laptop_results.filled("# Results", {"runs": "| a |"})
    assert laptop_results.filled("<!-- runs -->\nold\n<!-- /runs -->", {"runs": "new"}).split() == (
        "<!-- runs --> new <!-- /runs -->".split()
    )


@pytest.mark.parametrize(
    ("gain", "seeds", "verdict"),
    [(6.0, 4, "supported"), (-6.0, 4, "not supported"), (0.0, 4, "cannot be told"), (6.0, 1, "cannot be told")],
)
def test_a_claim_of_a_gain_needs_seeds_and_an_effect(gain: float, seeds: int, verdict: str) -> None:
    frames = default_cells({"none": 50.0, "snli": 50.0 + gain}, sd=0.2, seeds=seeds, targets=TARGETS)
    graded = {
        claim.claim: claim.verdict for claim in claims(Findings(with_chance(frames, dict.fromkeys(TARGETS, 0.0))))
    }
    (questions,) = [found for claim, found in graded.items() if claim.startswith("Question answering")]
    (names,) = [found for claim, found in graded.items() if claim.startswith("Named-entity")]
    assert questions == verdict
    opposite = {"supported": "not supported", "not supported": "supported"}
    assert names == opposite.get(verdict, verdict)
