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


@pytest.mark.parametrize("address", ["file:///tmp/report.html", "https://me:secret@host/report.html"])
def test_an_address_is_no_file_to_write(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a path, `file:///tmp/x` would be a folder named "file:" below the current one."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", "study.json", "--to", address])
    assert result.exit_code == 2
    assert "is an address; give a path on this machine" in " ".join(result.stderr.replace("│", "").split())
    assert "secret" not in result.stderr
    assert list(tmp_path.iterdir()) == []
