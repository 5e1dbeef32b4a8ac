"""Help of every command: complete and unbroken on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from study.cli.app import COMMANDS, app

EVERY = [command for commands in COMMANDS.values() for command in commands]


def _help(*arguments: str) -> str:
    ran = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"})
    assert ran.exit_code == 0, ran.stderr
    assert max(len(line) for line in ran.stdout.splitlines()) <= 80
    assert "…" not in ran.stdout
    return ran.stdout


def test_the_overview_names_every_command_with_its_panel() -> None:
    shown = _help()
    for panel, commands in COMMANDS.items():
        assert f"─ {panel} ─" in shown
        for command in commands:
            assert f"│ {command.__name__} " in shown


@pytest.mark.parametrize("command", EVERY, ids=lambda command: command.__name__)
def test_the_help_of_a_command_fits_80_columns(command: Callable[..., None]) -> None:
    summary = (command.__doc__ or "").splitlines()[0]
    assert f" {summary} " in _help(command.__name__)
