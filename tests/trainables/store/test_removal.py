"""Weights are removed and results stay; a kill on the way leaves a stage whole or known to be without weights."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trainables.stages.base import Stage, Workplace, ensure
from trainables.store.manifests import read_manifest
from trainables.store.removal import removable_bytes, remove_weights, weight_files
from trainables.store.stage_store import StageStore

CONTENT = {"encoder/model.safetensors": "w" * 100, "head.safetensors": "h" * 10, "config.json": "{}"}


@dataclass(frozen=True)
class Model(Stage):
    """Writes weights and a file beside them."""

    @property
    def label(self) -> str:
        return "target-toy"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        for name, text in CONTENT.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        return {"loss": 0.5}


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    work = Workplace(StageStore(tmp_path))
    ensure(Model(), work)
    return work


def folder_of(work: Workplace) -> Path:
    return work.store.folder(Model())


def files(work: Workplace) -> set[str]:
    folder = folder_of(work)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_weights_go_and_the_rest_stays(work: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    assert work.store.remove_weights(folder_of(work).name) == 110
    assert files(work) == {"config.json", "manifest.json"}
    manifest = read_manifest(folder_of(work))
    assert manifest is not None
    assert manifest["metrics"] == {"loss": 0.5}
    assert set(manifest["removed"]) == {"encoder/model.safetensors", "head.safetensors"}
    assert (work.store.find(Model()), work.store.find_intact(Model())) == (None, None), "absent, and not damaged"
    assert work.store.lacks_weights(Model())
    assert work.store.remove_weights(folder_of(work).name) == 0

    again = ensure(Model(), work)
    assert again.folder == folder_of(work), "the same identity"
    assert "its weights were removed; it is produced again" in caplog.text
    assert work.store.verify(Model()) == []
    assert not work.store.lacks_weights(Model())


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("steps", range(5))
def test_a_kill_leaves_the_stage_whole_or_without_weights(
    steps: int, work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended before one of the calls that change the disk: the manifest's flush, its rename, and the removal of each file."""
    calls = itertools.count()

    def counted(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == steps:
                raise Killed
            return original(*arguments, **options)

        return call

    manifest = read_manifest(folder_of(work))
    assert manifest is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(os, "unlink", counted(os.unlink))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        with suppress(Killed):
            remove_weights(folder_of(work), manifest)
    if work.store.lacks_weights(Model()):
        assert work.store.find_intact(Model()) is None
        work.store.remove_weights(folder_of(work).name)
        assert files(work) == {"config.json", "manifest.json"}
    else:
        assert steps == 0
        assert work.store.find_intact(Model()) is not None
        assert work.store.verify(Model()) == []


def test_a_file_with_another_name_frees_nothing_and_keeps_its_bytes(work: Workplace, tmp_path: Path) -> None:
    link = tmp_path / "link"
    os.link(folder_of(work) / "encoder" / "model.safetensors", link)
    with open(folder_of(work) / "head.safetensors") as open_file:
        assert work.store.remove_weights(folder_of(work).name) == 10
        assert open_file.read() == "h" * 10
    assert link.read_text() == "w" * 100


def test_a_stage_that_somebody_produces_is_left_alone(work: Workplace) -> None:
    claim = work.store.try_claim(Model())
    assert claim is not None
    with claim:
        assert work.store.remove_weights(folder_of(work).name) == 0
    assert work.store.find_intact(Model()) is not None


def test_what_would_be_freed_is_what_is_freed(work: Workplace) -> None:
    manifest = read_manifest(folder_of(work))
    assert manifest is not None
    assert set(weight_files(manifest)) == {"encoder/model.safetensors", "head.safetensors"}
    assert removable_bytes(folder_of(work), manifest) == work.store.remove_weights(folder_of(work).name)
    assert work.store.remove_weights("target-none@0123456789ab") == 0
