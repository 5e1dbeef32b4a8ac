"""The stage store: `<root>/stages/<name>@<fingerprint>/`, finished when its manifest is committed.

A stage writes into a temporary folder next to its final one. The manifest, which lists every file with size and sha256, is
written last, and one rename makes the stage visible. A folder without a valid manifest is not a finished stage. A stage whose
files differ from its manifest is damaged, which `find_intact` detects before anything reads them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self

from trainables.store.bucket.folder import LocalFolder, SharedFolder
from trainables.store.fingerprint import canonical, fingerprint
from trainables.store.kept import KeptFileUnusable
from trainables.store.manifests import (
    MANIFEST,
    OBJECTS,
    read_manifest,
    sync_folder,
    write_manifest,
    wrong_contents,
    wrong_sizes,
)
from trainables.store.removal import removable_bytes, remove_weights, removed_files

logger = logging.getLogger(__name__)

FORMAT = 1
# Stages that this process has verified, with the manifest it checked them against. Hashing runs at 1 to 2 GB/s per file, or at
# the disk's speed: 20 to 40 s for the 40 GB of the largest encoder.
_verified: dict[Path, Mapping[str, Any]] = {}


class Damaged(RuntimeError):
    """A finished stage whose files differ from its manifest."""


class ClaimLost(RuntimeError):
    """Another process has taken over a stage that this one produces."""


class OutputMissing(OSError):
    """The output folder is missing on this node."""


class Identity(Protocol):
    """What the store needs of a stage: a frozen dataclass with a short readable name."""

    @property
    def label(self) -> str:
        """Short and readable; part of a folder's name."""


@dataclass(frozen=True)
class Finished:
    """A finished stage: its folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        metrics: Mapping[str, Any] = self.manifest["metrics"]
        return metrics


class Claim:
    """The exclusive right to produce a stage, released at the end of the `with` block."""

    def __init__(self, lock: IO[str]) -> None:
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


class StageStore:
    """Finds, claims and commits stages under one folder, which processes may share.

    `trainables.store.opening.open_store` returns that of an output folder, which may be in a bucket.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stages = root / "stages"
        self._claims = root / "claims"
        self._checkpoints = root / "checkpoints"

    def folder(self, stage: Identity) -> Path:
        """Where the stage is or will be on this node. Its files are read from `local`."""
        return self._stages / f"{stage.label}@{fingerprint(stage)}"

    def local(self, stage: Identity) -> Path:
        """The folder of a finished stage, with its files on a file system of this node while the store lives.

        Raises:
            Damaged: the stage is not finished, or has other files than its manifest lists; a store in a folder does not check.
        """
        return self.folder(stage)

    def manifests(self, *, but: Container[str] = ()) -> dict[str, Mapping[str, Any]]:
        """The manifests of all finished stages by the names of their folders, but those of these names."""
        manifests = {name: read_manifest(self._stages / name) for name in self.names() if name not in but}
        return {name: manifest for name, manifest in manifests.items() if manifest is not None}

    def names(self) -> list[str]:
        """The names of the folders of all stages, sorted; `manifest` tells which are finished."""
        return sorted(path.name for path in self._stages.glob("*@*"))

    def manifest(self, name: str) -> Mapping[str, Any] | None:
        """The manifest of the finished stage in the folder of this name, whose files are there with their sizes."""
        folder = self._stages / name
        manifest = read_manifest(folder)
        return None if manifest is None or any(wrong_sizes(folder, manifest)) else manifest

    def removable(self, names: Sequence[str]) -> dict[str, int]:
        """The bytes that `remove_weights` would free, of the stages among these of which it would free any."""
        manifests = {name: read_manifest(self._stages / name) for name in names}
        sizes = {name: removable_bytes(self._stages / name, known) for name, known in manifests.items() if known}
        return {name: size for name, size in sizes.items() if size}

    def copies(self, wanted: Callable[[str, str], bool]) -> Iterator[tuple[Path, list[str]]]:
        """The folder of each finished stage with the names of its files, of which the wanted ones are there.

        `wanted` is given the name of the stage's folder and of a file.
        """
        for name, manifest in self.manifests().items():
            yield self._stages / name, sorted(manifest["files"])

    def local_named(self, name: str) -> Path:
        """As `local`, of the stage in the folder of this name."""
        return self._stages / name

    def find(self, stage: Identity) -> Finished | None:
        """The stage if it is finished, checked by file sizes only: enough for readers of the manifest."""
        status = self._status(stage)
        return status if isinstance(status, Finished) else None

    def find_intact(self, stage: Identity) -> Finished | None:
        """As `find`, for readers of the files: also checked by sha256, once in a process.

        Raises:
            Damaged: the stage was finished, and its files have changed since.
        """
        status = self._status(stage)
        if isinstance(status, Finished) and (problems := unverified(status.folder, status.manifest)):
            status = problems[0]
        if isinstance(status, str):
            raise Damaged(f"stage {self.folder(stage).name} is damaged ({status})")
        return status

    def verify(self, stage: Identity) -> list[str]:
        """Problems with a finished stage's files by content, read again at each call; empty if there are none."""
        status = self._status(stage)
        if not isinstance(status, Finished):
            return [status or f"{self.folder(stage).name}: not finished"]
        return wrong_contents(status.folder, status.manifest)

    def _status(self, stage: Identity) -> Finished | str | None:
        """The stage, or the problem that its manifest and file sizes show, or None where there is no folder."""
        folder = self.folder(stage)
        if not folder.exists():
            return None
        found = checked(stage, folder, read_manifest(folder))
        return found if not isinstance(found, Finished) else next(wrong_sizes(folder, found.manifest), found)

    def lacks_weights(self, stage: Identity) -> bool:
        """Whether the stage was finished and its weights were removed since: it counts as absent, and is no damaged one."""
        return bool(removed_files(read_manifest(self.folder(stage)) or {}))

    def remove_weights(self, name: str) -> int:
        """Remove the weights of the finished stage in the folder of this name, and return the bytes that this freed.

        Does nothing while another process produces the stage, or where there is no such stage.
        """
        claim, folder = self._try_claim(name.rpartition("@")[2]), self._stages / name
        if claim is None:
            return 0
        with claim:
            manifest = read_manifest(folder)
            return 0 if manifest is None else remove_weights(folder, manifest)

    def try_claim(self, stage: Identity) -> AbstractContextManager[Any] | None:
        """Single flight: the right to produce the stage, or None while another process has it.

        The claim is an advisory file lock, which the kernel releases when its holder dies. It excludes the other processes of
        the machine and, where the file system supports it, those of other nodes.
        """
        return self._try_claim(fingerprint(stage))

    def _try_claim(self, name: str) -> AbstractContextManager[Any] | None:
        self._claims.mkdir(parents=True, exist_ok=True)
        lock = open(self._claims / f"{name}.lock", "w")  # noqa: SIM115 - the claim closes it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return Claim(lock)

    def workspace(self, stage: Identity) -> Path:
        """A new, empty folder for the stage to write into, on the file system of its final folder."""
        self._stages.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self._stages))

    def commit(
        self, stage: Identity, workspace: Path, metrics: Mapping[str, Any], context: Mapping[str, Any]
    ) -> Finished:
        """Make the workspace's files the finished stage. The caller holds the claim.

        Args:
            metrics: what the stage measured, as JSON values.
            context: where and how it ran (versions, seconds, workers); recorded, and never part of the identity.
        """
        manifest = manifest_of(stage, workspace, metrics, context)
        final = self.folder(stage)
        if final.is_dir():  # damaged, or the caller would have found it
            shutil.rmtree(final)
        elif final.exists():
            final.unlink()
        os.replace(workspace, final)
        sync_folder(self._stages)  # before anybody records that the stage exists
        _verified[final] = manifest
        self._drop_checkpoints(stage)
        return Finished(final, manifest)

    def checkpoints(self, stage: Identity) -> Path:
        """The folder of the stage's checkpoints while it is produced."""
        return self._checkpoints / self.folder(stage).name

    def token(self, stage: Identity) -> int:
        """The fencing token of this process's claim on the stage: higher than that of every producer before it.

        0 in a folder, whose claims nobody can lose while their holder lives.
        """
        return 0

    def lost_claim(self, stage: Identity) -> bool:
        """Whether another process is known to have taken over the stage that this one claimed."""
        return False

    def _drop_checkpoints(self, stage: Identity) -> None:
        shutil.rmtree(self.checkpoints(stage), ignore_errors=True)

    def record_failure(self, stage: Identity, reason: Mapping[str, Any]) -> None:
        """Record that the stage's training has no result, so that nobody tries again. The caller holds the claim."""
        text = json.dumps({"identity": canonical(stage), **reason}, indent=1)
        self._failures.write(f"{self.folder(stage).name}.json", text)
        self._drop_checkpoints(stage)

    def failure(self, stage: Identity) -> Mapping[str, Any] | None:
        """The reason that `record_failure` recorded for the stage, if any."""
        try:
            failure = self._failures.read(f"{self.folder(stage).name}.json", ("identity", "step", "loss"))
        except KeptFileUnusable as error:
            logger.warning("%s; the stage is tried again", error)
            return None
        return failure if failure is not None and failure["identity"] == canonical(stage) else None

    @property
    def _failures(self) -> SharedFolder:
        return LocalFolder(self.root / "failures")


def manifest_of(
    stage: Identity,
    workspace: Path,
    metrics: Mapping[str, Any],
    context: Mapping[str, Any],
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write and return the manifest of a stage whose files are in the workspace."""
    content = {
        "format": FORMAT,
        "fingerprint": fingerprint(stage),
        "identity": canonical(stage),
        "metrics": dict(metrics),
        "context": dict(context),
    }
    return write_manifest(workspace, {**content, **(further or {})})


def checked(stage: Identity, folder: Path, manifest: Mapping[str, Any] | None) -> Finished | str | None:
    """The stage whose manifest this is, or what is wrong with the manifest, or None for a stage without its weights."""
    if manifest is None or not {"format", *OBJECTS} <= manifest.keys():
        return f"{MANIFEST}: missing or unreadable"
    if manifest["format"] != FORMAT:
        return f"{MANIFEST}: of format {manifest['format']}, {FORMAT} expected"
    if manifest["identity"] != canonical(stage):
        return f"{MANIFEST}: of another stage"
    return None if removed_files(manifest) else Finished(folder, manifest)


def unverified(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What the folder's files are other than the manifest lists, by content; read once in a process where there is nothing."""
    if _verified.get(folder) == manifest:
        return []
    if not (problems := wrong_contents(folder, manifest)):
        _verified[folder] = manifest
    return problems
