"""`report` from saved tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import analysis
from study.cli.app import app
from tests.analysis.helpers import default_cells


def test_a_path_with_brackets_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved = analysis.save(default_cells({"none": 50.0, "nli": 51.0}, sd=1.0, seeds=1), tmp_path / "study.json")
    (tmp_path / "[").mkdir()
    result = CliRunner().invoke(app, ["report", str(saved), "--to=[/]"])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == "[/]"
