"""docs/tutorial.md from top to bottom in an empty folder, as a reader follows it; nothing is trained."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from study.cli.app import app
from study.recipes import load_recipe
from tests.docs.pages import FENCE, NAME, text_of
from trainables.data.source import DATA_ROOT_VARIABLE

PAGE = "docs/tutorial.md"
NOT_EXECUTED = {"run", "ui", "doctor", "report"}  # commands that start Ray or a server, or need a run's folder


@pytest.fixture
def plans(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What each `plan` of the page prints, by recipe. The blocks are executed in order; the database of a run is planted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "")  # restored afterwards: `--data-root` sets it
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    Path("runs").mkdir()
    Path("runs/quickstart").symlink_to(planted)
    names: dict[str, Any] = {}
    printed: dict[str, str] = {}
    for language, text in FENCE.findall(text_of(PAGE)):
        if language == "python" and (name := NAME.match(text)):
            Path(name[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, PAGE, "exec"), names)
        else:
            for line in text.splitlines():
                follow(line, printed)
    return printed


def follow(line: str, printed: dict[str, str]) -> None:
    """Do what a command line of the page does, other than install and train."""
    match shlex.split(line):
        case ["python", script]:
            runpy.run_path(script, run_name="__main__")
        case ["python", "-m", "study", "plan", recipe, *options]:
            result = CliRunner().invoke(app, ["plan", recipe, *options])
            assert result.exit_code == 0, result.output
            printed[recipe] = result.stdout
        case ["python", "-m", "study", command, *_]:
            assert command in NOT_EXECUTED
        case ["git" | "python3" | "." | "pip", *_]:
            pass
        case _:
            pytest.fail(f"nothing here follows {line!r}")


@pytest.mark.slow
def test_the_tutorial(plans: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(plans) == {
        *("quickstart", "one_size.py:one_size", "half_ladder.py:half_ladder", "calendar_pairs.py:calendar_pairs")
    }
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "data")
    one_size = load_recipe("one_size.py:one_size")
    assert [size.name for size in one_size.sizes] == ["2x128"]
    assert len(one_size.space.defaults()) == 2  # none and micro_topic, as the page says
    half = load_recipe("half_ladder.py:half_ladder").sizes[0]
    assert half.encoder.revision.startswith("files:")  # type: ignore[union-attr]
    assert "our-org/half-ladder" in plans["half_ladder.py:half_ladder"]
    (task,) = load_recipe("calendar_pairs.py:calendar_pairs").targets
    sizes = {language: len(task.examples("test", language)) for language in task.languages}
    pairs = 19 * 18  # of 7 weekdays and 12 months; English trains on 200 and selects on 70
    assert sizes == {"en": pairs - 270, "de": pairs, "fi": pairs, "sw": pairs}
