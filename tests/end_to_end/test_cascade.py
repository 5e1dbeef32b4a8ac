"""A study with early timing and a cascade, from the command line: what is measured, shown and resumed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

import analysis
from analysis.store.frames import cascade_in
from analysis.tables.cascades.served import served_cascades
from analysis.tables.tradeoff import configurations
from study.cli.app import app
from study.tracking.tracker import default_uri
from tests.support.commands import study_command
from trainables.store.examples import read_example_scores

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_two_sizes_are_timed_early_searched_and_served_together(tmp_path: Path) -> None:
    arguments = ("run", "tests/support/recipes.py:cascading", "--output", str(tmp_path))
    ran = study_command(*arguments)
    assert ran.code == 0, ran.err
    early = ran.err.index("p50 of 16x64 (provisional, untrained heads)")
    assert early < ran.err.index("front so far"), "speeds are known before the first trial ends"
    assert "cascade 1x32→16x64 as fp32: English dev predicts" in ran.err
    of_large = {bench["variant"]: bench for bench in ran.document["sizes"][1]["bench"]}
    assert of_large.keys() == {"fp32", "cascade"}

    frames = analysis.load(default_uri(tmp_path))
    (row,) = [row for row in frames.benchmarks.to_dict("records") if cascade_in(row)]
    assert (row["size"], cascade_in(row)["small"]) == ("16x64", "1x32")
    assert 0 <= cascade_in(row)["timed_share"] <= 1
    assert row["mean_ms"] > 0
    (served,) = served_cascades(frames, configurations(frames)).to_dict("records")
    assert served["score"] == pytest.approx(served["score_predicted"]), "as stored confidences predict"
    assert 0 <= served["share_predicted"] <= 1
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1x32→16x64 cascade, served as fp32" in report
    (stored,) = tmp_path.glob("benchmarks/16x64-cascade@*/examples.parquet")
    assert {"small", "confidence"} <= set(read_example_scores(stored))
    assert len(list(tmp_path.glob("benchmarks/early/*.json"))) == 2

    bundle = str(tmp_path / "bundle.zip")
    assert CliRunner().invoke(app, ("export", str(tmp_path), bundle, "--no-page")).exit_code == 0
    verified = CliRunner().invoke(app, ("verify", bundle))
    assert verified.exit_code == 0, verified.output
    with zipfile.ZipFile(bundle) as archive:
        changes = archive.read("report/cascade_languages.csv").decode().splitlines()
    assert len(changes) == 1 + frames.scores["language"].nunique() - 2, "a row for each language but the two means"

    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("benchmarks/**/*.json") if "@" in path.name}
    again = study_command(*arguments)
    assert again.code == 0, again.err
    assert "every search and benchmark is finished" in again.err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.dumps(again.document["sizes"]) == json.dumps(ran.document["sizes"])
    plan = CliRunner().invoke(app, ("plan", "tests/support/recipes.py:cascading", "--output", str(tmp_path)))
    assert "front so far" in plan.output
