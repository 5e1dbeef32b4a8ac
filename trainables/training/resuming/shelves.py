"""Where the checkpoints of a stage are kept: in a folder that all nodes mount, or in the bucket of their work folder.

A checkpoint exists once its manifest is written. In a bucket, a group that was stopped for so long that another took its stage
over writes its own checkpoints, beside those of its successor. A training resumes from the newest whole one, whoever wrote it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trainables.store.atomic import write_text
from trainables.store.bucket.attempts import attempt_prefix, token_of
from trainables.store.bucket.cache import StageCache
from trainables.store.bucket.client import ObjectStore, bucket_of
from trainables.store.inside import NameRefused, path_inside
from trainables.store.kept import KeptFileUnusable, parse_object, read_object, sealed
from trainables.store.manifests import (
    MANIFEST,
    Files,
    parse_manifest,
    read_manifest,
    sync_folder,
    write_manifest,
    wrong_contents,
)

CHUNK_BYTES = 16 * 2**20
STEP = "step-{step:08d}"
FETCHED = ".fetched"  # beside the stages' checkpoints on a node's disk
_CHECKPOINT = re.compile(r"(?:attempt-\d+/)?step-\d+(?=/)")
NOTE = ".files-{rank}.json"  # in the checkpoint's folder until its manifest is written


class Shelf(Protocol):
    """The checkpoints of one stage by name. Raises OSError where the store cannot be used."""

    def name_of(self, step: int) -> str:
        """The name of the checkpoint that this producer writes after so many steps."""

    def newest_first(self) -> list[str]:
        """The names of all checkpoints, also of those without a manifest."""

    def own(self) -> list[str]:
        """Of these, those of this producer and of the ones before it, but not of one that has taken over."""

    def keep(self, checkpoint: str, name: str, source: Path, cancelled: threading.Event) -> str | None:
        """Copy a file into the checkpoint and return its sha256; None where that was cancelled."""

    def note(self, checkpoint: str, rank: int, files: Files) -> None:
        """Note that a worker's files would survive a power cut."""

    def noted(self, checkpoint: str, rank: int) -> Files | None:
        """A worker's note, once it is there."""

    def finish(self, checkpoint: str, content: Mapping[str, Any], files: Files, *, workers: int) -> None:
        """Remove the workers' notes and write the manifest."""

    def manifest(self, checkpoint: str) -> dict[str, Any] | None:
        """The checkpoint's manifest, or None where it has none that is valid."""

    def problem(self, checkpoint: str, manifest: Mapping[str, Any]) -> str | None:
        """What is wrong with the checkpoint's files; if nothing, they are now in its `folder` until `release`."""

    def fetch(self, checkpoint: str, manifest: Mapping[str, Any]) -> str | None:
        """Bring an intact checkpoint's files to this node, where they are not yet; what is wrong with them, if anything is."""

    def folder(self, checkpoint: str) -> Path:
        """Where the files of a fetched checkpoint are on this node."""

    def release(self, checkpoint: str) -> None:
        """This process has read a fetched checkpoint: what was only fetched is removed from the node after its last reader."""

    def remove(self, checkpoint: str) -> None:
        """Remove a checkpoint as far as possible."""


class FolderShelf:
    """Checkpoints in a folder that every node mounts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def name_of(self, step: int) -> str:
        return STEP.format(step=step)

    def newest_first(self) -> list[str]:
        return sorted((path.name for path in self._folder.glob("step-*")), reverse=True)

    def own(self) -> list[str]:
        return self.newest_first()

    def keep(self, checkpoint: str, name: str, source: Path, cancelled: threading.Event) -> str | None:
        target = self._folder / checkpoint / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return _copied(source, target, cancelled)

    def note(self, checkpoint: str, rank: int, files: Files) -> None:
        folder = self._folder / checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder)
        write_text(folder / NOTE.format(rank=rank), json.dumps({"files": files}))

    def noted(self, checkpoint: str, rank: int) -> Files | None:
        with contextlib.suppress(KeptFileUnusable):
            note = read_object(self._folder / checkpoint / NOTE.format(rank=rank), ("files",))
            return None if note is None else note["files"]
        return None

    def finish(self, checkpoint: str, content: Mapping[str, Any], files: Files, *, workers: int) -> None:
        for rank in range(workers):
            (self._folder / checkpoint / NOTE.format(rank=rank)).unlink()
        write_manifest(self._folder / checkpoint, content, files=files)

    def manifest(self, checkpoint: str) -> dict[str, Any] | None:
        return read_manifest(self._folder / checkpoint)

    def problem(self, checkpoint: str, manifest: Mapping[str, Any]) -> str | None:
        return next(iter(wrong_contents(self._folder / checkpoint, manifest)), None)

    def fetch(self, checkpoint: str, manifest: Mapping[str, Any]) -> str | None:
        return None

    def folder(self, checkpoint: str) -> Path:
        return self._folder / checkpoint

    def release(self, checkpoint: str) -> None:
        return

    def remove(self, checkpoint: str) -> None:
        shutil.rmtree(self._folder / checkpoint, ignore_errors=True)


class BucketShelf:
    """Checkpoints in a bucket, each producer's below a prefix of its own (`store.bucket.attempts`).

    Those that are read are brought to this node's own disk, into a cache that all trainings of the node share. It keeps what
    they are reading and nothing else, also of processes that were killed.

    Args:
        folder: the stage's, below that of the node's checkpoints; its name tells stages apart there.
        token: of this producer's claim. Only checkpoints with this or a lower one are ever removed.
    """

    def __init__(self, folder: Path, bucket: ObjectStore, token: int = 0) -> None:
        self._stage, self._bucket, self._token = folder.name, bucket, token
        fetched = folder.parent / FETCHED
        self._cache = StageCache(fetched, fetched / ".locks", most_bytes=0)

    def name_of(self, step: int) -> str:
        return f"{attempt_prefix(self._token)}{STEP.format(step=step)}"

    def newest_first(self) -> list[str]:
        names = {found[0] for name in self._bucket.names("") if (found := _CHECKPOINT.match(name))}
        return sorted(names, key=lambda name: (name.rpartition("/")[2], token_of(name)), reverse=True)

    def own(self) -> list[str]:
        return [name for name in self.newest_first() if token_of(name) <= self._token]

    def keep(self, checkpoint: str, name: str, source: Path, cancelled: threading.Event) -> str | None:
        if cancelled.is_set():
            return None
        with open(source, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._bucket.upload(source, f"{checkpoint}/{name}")
        return digest

    def note(self, checkpoint: str, rank: int, files: Files) -> None:
        self._bucket.put(f"{checkpoint}/{NOTE.format(rank=rank)}", json.dumps({"files": files}).encode())

    def noted(self, checkpoint: str, rank: int) -> Files | None:
        present = self._bucket.get(f"{checkpoint}/{NOTE.format(rank=rank)}")
        with contextlib.suppress(ValueError):
            return None if present is None else parse_object(present.content)["files"]
        return None

    def finish(self, checkpoint: str, content: Mapping[str, Any], files: Files, *, workers: int) -> None:
        self._bucket.delete(f"{checkpoint}/{NOTE.format(rank=rank)}" for rank in range(workers))
        self._bucket.put(f"{checkpoint}/{MANIFEST}", json.dumps(sealed({**content, "files": files})).encode())

    def manifest(self, checkpoint: str) -> dict[str, Any] | None:
        present = self._bucket.get(f"{checkpoint}/{MANIFEST}")
        return None if present is None else parse_manifest(present.content)

    def problem(self, checkpoint: str, manifest: Mapping[str, Any]) -> str | None:
        return self.fetch(checkpoint, manifest)

    def fetch(self, checkpoint: str, manifest: Mapping[str, Any]) -> str | None:
        try:
            self._cache.hold(
                self._entry(checkpoint),
                fetch=lambda folder: self._download(checkpoint, manifest, folder),
                usable=lambda folder: not wrong_contents(folder, manifest),
            )
        except _Unusable as error:
            self.release(checkpoint)
            return str(error)
        return None

    def _download(self, checkpoint: str, manifest: Mapping[str, Any], folder: Path) -> None:
        for name, entry in manifest["files"].items():
            try:
                path = path_inside(folder, name)
            except NameRefused as error:
                raise _Unusable(f"refused: {error}") from error
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = self._bucket.download(f"{checkpoint}/{name}", path)
            if digest != entry["sha256"]:
                raise _Unusable(f"{name}: missing" if digest is None else f"{name}: sha256 differs from the manifest's")

    def folder(self, checkpoint: str) -> Path:
        return self._cache.folder / self._entry(checkpoint)

    def release(self, checkpoint: str) -> None:
        self._cache.release(self._entry(checkpoint))
        self._cache.trim()

    def _entry(self, checkpoint: str) -> str:
        return f"{self._stage}+{checkpoint.replace('/', '+')}"

    def remove(self, checkpoint: str) -> None:
        with contextlib.suppress(OSError):  # the store said why in a request that matters, or the next one will
            names = self._bucket.names(f"{checkpoint}/")
            self._bucket.delete(sorted(names, key=lambda name: not name.endswith(f"/{MANIFEST}")))  # the manifest first


class _Unusable(Exception):
    """What is wrong with a checkpoint in a bucket."""


def shelf_of(folder: Path, token: int = 0) -> Shelf:
    """The checkpoints of the stage whose folder for them this is, for its producer with this token."""
    bucket = bucket_of(folder)
    return FolderShelf(folder) if bucket is None else BucketShelf(folder, bucket, token)


def _copied(source: Path, target: Path, cancelled: threading.Event) -> str | None:
    """Copy a file to disk, and return its sha256; None where it was cancelled. Hashing and writing release the GIL."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    with open(source, "rb", buffering=0) as reader, open(target, "wb", buffering=0) as writer:
        while count := reader.readinto(buffer):
            if cancelled.is_set():
                return None
            chunk = buffer[:count]
            digest.update(chunk)
            while chunk:
                chunk = chunk[writer.write(chunk) :]
        os.fsync(writer.fileno())
    return digest.hexdigest()
