"""Settings of every test, and the study that several of them look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on the last line of standard output."""
        document: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return document


def study_command(*arguments: str, timeout_s: float = 420) -> Ran:
    """`python -m study ...` as a user runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "study", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "COLUMNS": "160"},
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """The cut-down study with both launchers, run once: its output folder and what the command printed."""
    output = tmp_path_factory.mktemp("tiny") / "out"
    ran = study_command("run", "tests/recipes.py:tiny", "--output", str(output))
    assert ran.code == 0, ran.err
    return output, ran


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a synthetic study whose truth is known (`tests.studies.Planted`), in MLflow."""
    from tests.studies import Planted, plant

    folder = tmp_path_factory.mktemp("planted")
    plant(folder, Planted())
    return folder
