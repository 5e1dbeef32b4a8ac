"""How the encoders of the sizes are obtained, and what the console says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from study.console import Console, Timeline
from study.errors import StorageFailed
from study.run import pretraining
from study.run.pretraining import IMPORTING, PRETRAINING, activities, activity, prepare_encoders
from study.spec import LadderEncoder, Size, Study
from tests.support import recipes
from trainables.models.catalogue import published


def _with_a_published_size() -> tuple[Study, Size, Size]:
    """A study, its size with a ladder encoder, and its size with a published one."""
    trained = recipes.inline().sizes[0]
    imported = dataclasses.replace(trained, name="published", encoder=published("xlm-r-base"))
    assert isinstance(trained.encoder, LadderEncoder)
    return dataclasses.replace(recipes.inline(), sizes=(trained, imported)), trained, imported


class _Task:
    """In place of the Ray task: remembers what it was asked for."""

    def __init__(self) -> None:
        self.launched: list[tuple[str, dict[str, Any]]] = []

    def options(self, **requests: Any) -> SimpleNamespace:
        def remote(job: Any, name: str, progress: Any) -> str:
            self.launched.append((name, requests))
            return name

        return SimpleNamespace(remote=remote)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> _Task:
    replacement = _Task()
    monkeypatch.setattr(pretraining, "run_task", replacement)
    return replacement


def test_published_encoders_are_imported_and_ladder_encoders_pre_trained(
    task: _Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, trained, imported = _with_a_published_size()
    assert activity(study, trained) == PRETRAINING
    assert activity(study, imported) == IMPORTING
    assert activities(study) == PRETRAINING
    assert activities(dataclasses.replace(study, sizes=(imported,))) == IMPORTING

    def get(name: str) -> None:
        if name == f"pretrain-{imported.name}":
            raise ray.exceptions.RayTaskError("run_task", "", ConnectionError("the hub does not answer"))

    monkeypatch.setattr(ray, "get", get)
    failures = prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline()))
    assert failures == {imported.name: "ConnectionError: the hub does not answer"}
    lines = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        f"pre-training {trained.name}",
        "importing published",
        "importing published failed, the size is skipped: ConnectionError: the hub does not answer",
    ]
    assert dict(task.launched) == {f"pretrain-{size.name}": {"num_cpus": 1} for size in (trained, imported)}


def test_a_folder_that_cannot_be_written_ends_the_run(
    task: _Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _, _ = _with_a_published_size()

    def get(name: str) -> None:
        raise ray.exceptions.RayTaskError("run_task", "", OSError(28, "No space left on device"))

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(StorageFailed, match="No space left on device"):
        prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline()))
