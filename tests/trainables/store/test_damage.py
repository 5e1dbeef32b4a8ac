"""Finished stages whose files were damaged later: detected before use, reported and produced again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.pair import WORKERS, Pair
from trainables.stages.base import Stage, Workplace, ensure
from trainables.store.stage_store import StageStore
from trainables.training.batching import Share


@dataclass(frozen=True)
class Copied(Stage):
    """Writes the base's weights twice; without a base, its own."""

    base: Copied | None = None

    @property
    def label(self) -> str:
        return "first" if self.base is None else "second"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return () if self.base is None else (self.base,)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        work.progress(self.label, 1, 1, None)
        if work.leads:
            (folder / "weights").write_bytes(_weights(self.base, work.store))
        return {}


def _weights(base: Copied | None, store: StageStore) -> bytes:
    return b"weights" if base is None else 2 * (store.folder(base) / "weights").read_bytes()


FIRST, SECOND = Copied(), Copied(Copied())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    ensure(SECOND, Workplace(StageStore(root)))
    return root


@dataclass
class Place:
    """A store with both stages, not verified by this process yet; the stages produced, and the files hashed, since."""

    work: Workplace
    produced: list[str]
    hashed: list[str]

    def weights(self, stage: Copied) -> Path:
        return self.work.store.folder(stage) / "weights"


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    produced: list[str] = []
    hashed: list[str] = []
    digest = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(Path(file.name).parent.name.partition("@")[0])
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    root = Path(shutil.copytree(finished, tmp_path / "copied"))
    return Place(Workplace(StageStore(root), progress=lambda name, *_: produced.append(name)), produced, hashed)


def _zeros(path: Path) -> str:
    """As a power cut leaves a file whose size was written and whose content was not."""
    path.write_bytes(bytes(path.stat().st_size))
    return "weights: sha256 differs from the manifest's"


def _cut_short(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:5])
    return "weights: 5 bytes, 14 expected"


@pytest.mark.parametrize("damage", [_zeros, _cut_short])
def test_a_damaged_stage_is_reported_and_produced_again(
    place: Place, damage: Callable[[Path], str], caplog: pytest.LogCaptureFixture
) -> None:
    reason = damage(place.weights(SECOND))
    ensure(SECOND, place.work)
    assert place.produced == ["second"]
    assert place.weights(SECOND).read_bytes() == b"weightsweights"
    name = place.work.store.folder(SECOND).name
    assert [record.getMessage() for record in caplog.records] == [
        f"stage {name} is damaged ({reason}); it is produced again"
    ]


def test_a_damaged_input_is_produced_again_before_it_is_read(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(place.work.store.folder(SECOND))
    _zeros(place.weights(FIRST))
    ensure(SECOND, place.work)
    assert place.produced == ["first", "second"]
    assert place.weights(SECOND).read_bytes() == b"weightsweights"
    assert "it is produced again" in caplog.text


def test_a_process_hashes_a_stage_once(place: Place) -> None:
    """It hashes neither stages it has produced itself nor the inputs of finished ones."""
    ensure(SECOND, place.work)
    assert place.hashed == ["second"]
    for _ in range(3):
        ensure(SECOND, Workplace(StageStore(place.work.store.root)))
    assert place.hashed == ["second"]
    shutil.rmtree(place.work.store.folder(SECOND))
    ensure(SECOND, place.work)
    assert place.hashed[1] == "first"
    assert place.produced == ["second"]
    written = len(place.hashed)
    ensure(SECOND, place.work)
    assert len(place.hashed) == written


def _hashed(rank: int, root: Path) -> int:
    """The number of files that a worker of a group hashes for a finished stage."""
    count = 0
    digest = hashlib.file_digest

    def counted(file: Any, name: Any) -> Any:
        nonlocal count
        count += 1
        return digest(file, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "file_digest", counted)
        ensure(FIRST, Workplace(StageStore(root), Share(rank, WORKERS, 1)))
    return count


def test_only_the_leader_hashes(place: Place, pair: Pair) -> None:
    """Every worker would read 40 GB of weights over the network."""
    assert pair.run(_hashed, place.work.store.root) == [1, 0]
