"""`rank` on the command line: its text, its JSON, and the names that its help lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from study.cli.app import app
from study.run.ranking import Ranking
from study.run.shortlist import Place
from study.spec import Size, Study
from trainables.estimators.registry import ESTIMATORS

RANKING = Ranking(
    "1x32",
    "logme",
    {("none", "micro_tagging"): 0.5, ("micro_topic", "micro_tagging"): 0.75},
    {("none", "micro_bitext"): "no English", ("micro_topic", "micro_bitext"): "no English"},
    (Place("micro_topic", 1.0), Place("none", 2.0)),
    estimates_s=3.25,
    trainings_s=8.0,
    spared=(0.0,),
)
COMMAND = ("rank", "tests/support/recipes.py:inline", "--output")


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def rank(study: Study, output: Path, *, sizes: Sequence[Size], estimators: Sequence[str]) -> list[Ranking]:
        calls.append((study.name, [size.name for size in sizes], list(estimators)))
        return [RANKING]

    monkeypatch.setattr("study.run.ranking.rank", rank)
    return calls


def test_the_order_the_cost_and_what_is_unavailable_are_said(tmp_path: Path, asked: list[Any]) -> None:
    ran = CliRunner().invoke(app, [*COMMAND, str(tmp_path), "--estimator", "logme,probe,logme"])
    assert ran.exit_code == 0, ran.stderr
    assert asked == [("inline", ["1x32"], ["logme", "probe"])]
    assert ran.stdout.splitlines() == [
        "size 1x32, logme: 3.2 s, after intermediate trainings of 8.0 s",
        "  all targets, mean rank: micro_topic 1.0, none 2.0",
        "  micro_tagging: micro_topic 0.750, none 0.500",
        "  micro_bitext: unavailable: no English",
    ]


def test_json_has_all_of_it_on_one_line(tmp_path: Path, asked: list[Any]) -> None:
    ran = CliRunner().invoke(app, [*COMMAND, str(tmp_path), "--json"])
    assert asked[0][2] == list(ESTIMATORS)
    assert json.loads(ran.stdout) == [RANKING.document()]
    assert RANKING.document()["targets"]["micro_tagging"]["values"] == {"micro_topic": 0.75, "none": 0.5}


def test_help_lists_every_estimator() -> None:
    ran = CliRunner().invoke(app, ["rank", "--help"], env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"})
    words = ran.stdout.replace("│", " ").split()
    assert set(ESTIMATORS) <= {word.strip(",;") for word in words}
