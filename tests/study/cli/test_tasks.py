"""`tasks`: every task, readable on a narrow terminal; and what a data root lacks."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest

from tests.support.commands import CommandResult, study_command
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.tasks.registry import TASKS

pytestmark = pytest.mark.slow

NARROW = {"COLUMNS": "80", DATA_ROOT_VARIABLE: ""}


@pytest.fixture(scope="module")
def narrow() -> CommandResult:
    return study_command("tasks", environment=NARROW)


def test_every_task_has_its_head_metric_and_source(narrow: CommandResult) -> None:
    assert narrow.code == 0, narrow.err
    lines = narrow.out.splitlines()
    for name, build in TASKS.items():
        task = build()
        (number,) = [number for number, line in enumerate(lines) if line.startswith(f"{name} ")]
        assert re.match(rf"{name} +{task.head} +{task.metric} ", lines[number])
        details = itertools.takewhile(lambda line: line.startswith("    "), lines[number + 1 :])
        text = " ".join(line.strip() for line in details)
        assert text.endswith(task.source)
        assert text.startswith((*task.languages, f"{len(task.languages)} languages"))


def test_a_terminal_of_80_columns_breaks_no_word(narrow: CommandResult) -> None:
    assert max(len(line) for line in narrow.out.splitlines()) <= 80
    assert "…" not in narrow.out
    printed = set(re.split(r"\s+", narrow.out))
    for build in TASKS.values():
        assert set(build().source.split()) <= printed


def test_what_a_data_root_lacks_is_listed_with_its_expected_path(tmp_path: Path) -> None:
    ran = study_command("tasks", "--data-root", str(tmp_path), environment={**NARROW, "COLUMNS": str(10**4)})
    assert ran.code == 0, ran.err
    (xnli,) = [line for line in ran.out.splitlines() if line.startswith("xnli ")]
    assert xnli.endswith(f"0 of {len(TASKS['xnli']().splits())} present")
    missing = ran.out.partition(f"missing under {tmp_path}:\n")[2].splitlines()
    assert any(line.startswith("xnli: test sw: no ") and f"{tmp_path}{os.sep}" in line for line in missing)
