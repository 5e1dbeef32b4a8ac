"""Studies that several tests of analysis read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import analysis
from analysis import StudyFrames, load, write_report
from analysis.store.examples import Examples
from tests.analysis.quickstart import Store, plant_quickstart


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    plant_quickstart(Store(folder))
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture(scope="session")
def frames(uri: str) -> StudyFrames:
    return load(uri, "quickstart")


@pytest.fixture(scope="session")
def empty(uri: str) -> StudyFrames:
    return load(uri, "empty")


@pytest.fixture(scope="session")
def report(frames: StudyFrames, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "deeper" / "report.html"
    assert write_report(frames, path, exports=False) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def study(planted: Path) -> StudyFrames:
    return analysis.load(f"sqlite:///{planted / 'mlflow.db'}", "planted")


@pytest.fixture(scope="session")
def bare(study: StudyFrames) -> StudyFrames:
    """The same without per-example scores."""
    return dataclasses.replace(study, examples=Examples())


@pytest.fixture(scope="session")
def page(study: StudyFrames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the planted study, with a budget and a comparison."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    return analysis.write_report(study, path, budget="p50_ms<=5", other=study, exports=False)
