"""What `plan --detect` prints: seeds and test examples for a gain, and what the study's own tell."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

import analysis
from analysis import detectable, seeds_needed
from study.cli.app import app
from study.planning.detection import (
    DEFAULT_SPREADS,
    NoSpread,
    Spread,
    Spreads,
    comparisons_of,
    render_detection,
    spreads_of,
)
from study.recipes.quickstart import quickstart
from study.spec import PublishedAfter, Repeats, Resources, Size, Study
from tests.analysis.helpers import default_cells
from tests.support.recipes import published_study
from trainables.models.catalogue import published
from trainables.models.published_encoder import pinned_encoder

MEASURED = Path(__file__).parents[3] / "docs" / "measured" / "first_run_seeds.json"


def _text(study: Study, points: float, of: Spreads) -> str:
    console = Console(width=80, record=True, file=StringIO())
    console.print(render_detection(study, points, of))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    return " ".join(" ".join(lines).split())


def test_the_default_spreads_are_those_of_the_kept_measurement() -> None:
    measured, squares = json.loads(MEASURED.read_text(encoding="utf-8")), defaultdict(list)
    to_sd = math.sqrt(measured["seeds"]) / stats.t.ppf(0.975, measured["seeds"] - 1) / 2
    for cell, (_, low, high) in measured["gains"].items():
        squares[cell.split()[-1]].append(((high - low) * to_sd) ** 2)
    expected = {target: math.sqrt(sum(of_target) / len(of_target)) for target, of_target in squares.items()}
    assert {spread.target: spread.sd for spread in DEFAULT_SPREADS.targets} == pytest.approx(expected, abs=0.006)


def test_gains_that_a_published_arm_has_seen_are_not_compared() -> None:
    size = Size("base", pinned_encoder(published("xlm-r-base")), Resources())
    arm = PublishedAfter("e5", (("base", pinned_encoder(published("e5-base"))),))
    study = published_study(size)
    study = dataclasses.replace(study, space=dataclasses.replace(study.space, intermediates=(arm,)), trials=2)
    assert comparisons_of(study).cells == len(study.targets) - 1  # E5 has seen translations


def test_the_plan_says_what_its_own_seeds_tell() -> None:
    """Two sizes of the quickstart have intermediate tasks, four and one, on five targets."""
    study = dataclasses.replace(quickstart(), repeats=Repeats(top=1, seeds=4))
    compared = comparisons_of(study)
    assert (compared.cells, compared.treatments, compared.seeds) == (25, 4, 4)
    of = Spreads("a made one", (Spread("micro_span", 2.0), Spread("elsewhere", 9.0)))
    text = _text(study, 3.0, of)
    one, every = detectable(4.0, seeds=4), detectable(4.0, seeds=4, treatments=4, comparisons=25)
    assert f"with 4 seeds a gain of {one:.1f} (micro_span) points in one comparison" in text
    assert f"{every:.1f} (micro_span) points after correction for all 25, would be told" in text
    needed = seeds_needed(3.0, seed_variance=4.0), seeds_needed(3.0, seed_variance=4.0, treatments=4, comparisons=25)
    assert f"micro_span │ 2.00 │ {needed[0]} │ {needed[1]} │ {one:.1f} │ {every:.1f} │" in text
    assert "no spread is known of micro_tagging" in text
    assert text.endswith("only the winners of each size are repeated: the other gains have one seed and are not tested")
    all_repeated = dataclasses.replace(study, repeats=Repeats(top=6, seeds=3))
    assert _text(all_repeated, 3.0, of).endswith("would be told")
    assert "elsewhere" not in text


def test_seeds_that_pair_are_counted() -> None:
    study = quickstart()
    for repeats, seeds in (
        (None, 1),
        (Repeats(top=1, seeds=1), 2),  # the seed of the choice and one more
        (Repeats(top=1, seeds=3), 3),  # without the seed of the choice
        (Repeats(top=6, seeds=2), 3),  # every trial is repeated: nothing was chosen
    ):
        assert comparisons_of(dataclasses.replace(study, repeats=repeats)).seeds == seeds
    assert "nothing is tested" in _text(dataclasses.replace(study, repeats=None), 2.0, DEFAULT_SPREADS)


def test_test_examples_that_hide_a_gain_are_said_to_be_what_is_lacking() -> None:
    """A standard error of 1 over 50 examples: 2.80 points with seeds without limit, so 1.4 needs four times as many."""
    of = Spreads("a made one", (Spread("micro_span", 2.0, 1.0, 50),))
    text = _text(quickstart(), 1.4, of)
    assert "│ never │ never │" in text
    assert "never: too few test examples" in text
    assert "│ micro_span │ 50 │ 201 │" in text
    other = Spreads("a made one", (Spread("other", 2.0),))
    assert "none of the study's targets is among these" in _text(quickstart(), 1.4, other)


def test_an_earlier_run_gives_the_spread(tmp_path: Path) -> None:
    saved = analysis.save(
        default_cells({"none": 50.0, "topic": 51.0}, sd=2.0, seeds=8, targets=("micro_span",)), tmp_path / "saved.json"
    )
    ran = CliRunner().invoke(app, ["plan", "quickstart", "--detect", "2", "--from", str(saved)])
    assert ran.exit_code == 0, ran.stderr
    assert "1 gain of up to 8 seeds" in " ".join(ran.stdout.split())
    with pytest.raises(NoSpread, match="no gain has two seeds"):
        spreads_of(default_cells({"none": 50.0, "topic": 51.0}, sd=2.0, seeds=1), "made")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--from", "x.json"], "--from needs --detect"),
        (["--detect", "2", "--from", "/nowhere.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_planned_with_is_refused(options: list[str], says: str) -> None:
    ran = CliRunner().invoke(app, ["plan", "quickstart", *options])
    assert ran.exit_code == 2
    assert says in ran.stderr
