"""Where a study keeps its output: a folder on the lab's disk, or a bucket with a work folder there."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.support.object_http import BUCKET
from trainables.store.bucket.client import object_store
from trainables.store.bucket.location import WORK_VARIABLE, work_folder


class Place(ABC):
    """An output, and what the loss of a machine takes from it.

    Attributes:
        output: what the command gets as `--output`.
        work: the folder on the lab's disk that a driver writes to.
        committed: the folder that has `stages/` as all machines see it.
        work_is_all: whether there is nothing besides `work`, so that a stage whose files are cut there is trained again.
    """

    output: str
    work: Path
    committed: Path
    work_is_all: bool

    @abstractmethod
    def lose_machine(self) -> str:
        """Lose what the machine had for itself; returns more words for the line that says so."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Path]:
        """A folder with trial store and outbox as the next driver finds them on another machine."""

    @abstractmethod
    def remove(self) -> None: ...


class Folder(Place):
    """On a disk that all machines share, and that none takes with it."""

    work_is_all = True

    def __init__(self, disk: Path, name: str) -> None:
        self.work = self.committed = disk / name
        self.output = str(self.work)

    def lose_machine(self) -> str:
        return ""

    @contextmanager
    def read(self) -> Iterator[Path]:
        yield self.work

    def remove(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)


class Bucket(Place):
    """In a bucket. The variables of `work_variables` and of its server have to be set in this process too."""

    work_is_all = False

    def __init__(self, disk: Path, name: str, objects: Path) -> None:
        self._parent = disk / "work"
        self.output = f"gs://{BUCKET}/{name}"
        self.work, self.committed = work_folder(self.output), objects / name

    def lose_machine(self) -> str:
        """The next driver is on a machine that has never seen the study."""
        shutil.rmtree(self._parent, ignore_errors=True)
        return ", and its work folder"

    @contextmanager
    def read(self) -> Iterator[Path]:
        """What was shipped, restored in a folder of its own."""
        from study.run.bucket.reading import restore, segments_of  # seconds, and rehearsals have no bucket

        with tempfile.TemporaryDirectory() as scratch:
            elsewhere = Path(scratch) / self.work.relative_to(self._parent)
            elsewhere.mkdir(parents=True)
            bucket = object_store(self.output)
            restore(bucket, elsewhere, segments_of(bucket, elsewhere))
            yield elsewhere

    def remove(self) -> None:
        bucket = object_store(self.output)
        bucket.delete(bucket.names(""))
        shutil.rmtree(self._parent, ignore_errors=True)


def work_variables(disk: Path) -> dict[str, str]:
    """What places work folders on the lab's disk."""
    return {WORK_VARIABLE: str(disk / "work")}
