"""Fixtures of the tests of benchmark commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.commands import ROOT, CommandResult

Run = Callable[[str, str], CommandResult]


@pytest.fixture
def run_without_ray(tmp_path: Path) -> Run:
    """Runs a module of `tests.benchmarks` with options, as on a machine without Ray."""
    (tmp_path / "ray.py").write_text("raise ImportError('there is no Ray here')\n")
    return _runner({"PYTHONPATH": str(tmp_path)})


@pytest.fixture
def run_with_ray() -> Run:
    """Runs a module of `tests.benchmarks` with options."""
    return _runner({})


def _runner(environment: Mapping[str, str]) -> Run:
    def run(module: str, options: str) -> CommandResult:
        done = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{module}", *options.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=1200,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0, done.stderr
        return CommandResult(done.returncode, done.stdout, done.stderr)

    return run
