"""`compare` as a nightly run uses it: its first line and its exit code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import analysis
from study.cli.app import app
from tests.analysis.helpers import default_cells


def _compare(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "80"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study of six seeds, and one with other seeds' noise in which `nli` is 10 points worse."""
    folder = tmp_path_factory.mktemp("saved")
    before = default_cells({"none": 50.0, "nli": 55.0}, sd=0.5, seeds=6)
    drop = before.scores["intermediate"].eq("nli") * 10.0
    noise = [0.1 * (-1) ** number for number in range(len(before.scores))]
    after = dataclasses.replace(before, scores=before.scores.assign(value=before.scores["value"] - drop + noise))
    return analysis.save(before, folder / "before.json"), analysis.save(after, folder / "after.json")


def test_the_answer_is_first_and_only_a_fall_fails(saved: tuple[Path, Path]) -> None:
    before, after = saved
    worse = _compare(before, after, "--fail-on-worse")
    assert worse.exit_code == 3, worse.output
    assert worse.stdout.splitlines()[0] == "1 of 2 cells changed: 1 worse"
    assert max(map(len, worse.stdout.splitlines())) <= max(80, 10 + len(str(after)))
    assert _compare(before, after).exit_code == 0, "only where it was asked for"
    better = _compare(after, before, "--fail-on-worse")
    assert (better.exit_code, better.stdout.splitlines()[0]) == (0, "1 of 2 cells changed: 1 better")
    same = _compare(before, before, "--fail-on-worse")
    assert (same.exit_code, same.stdout.splitlines()[0]) == (0, "identical: same scores and settings")


def test_it_is_written_in_the_form_that_the_file_asks_for(saved: tuple[Path, Path], tmp_path: Path) -> None:
    for name, start in (("log.html", "<!doctype html>"), ("log.md", "**1 of 2 cells"), ("log.txt", "1 of 2 cells")):
        ran = _compare(*saved, "--to", tmp_path / name)
        assert ran.exit_code == 0, ran.output
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    refused = _compare(*saved, "--to", tmp_path / "log.pdf")
    assert (refused.exit_code, "give a name that ends in .html, .md or .txt" in refused.stderr) == (2, True)
    document = json.loads(_compare(*saved, "--json").stdout)
    assert document["worse"] == 1
    assert document["a"].endswith("before.json (made, 12 trials)")


def test_a_study_that_cannot_be_read_is_named(saved: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK")
    for source in (tmp_path / "missing.json", tmp_path / "broken.zip", tmp_path):
        ran = _compare(saved[0], source)
        assert ran.exit_code == 2
        assert str(source) in ran.stderr
