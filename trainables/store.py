"""The stage store: `<root>/stages/<name>@<fingerprint>/`, finished when its manifest is committed.

A stage writes into a folder of its own beside the final place; the manifest is written last, every file it vouches for
is named with size and sha256, and one rename makes the whole visible. What has no valid manifest does not exist.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self

from trainables.fingerprint import canonical, fingerprint

MANIFEST = "manifest.json"
FORMAT = 1


class Identity(Protocol):
    """What a store needs of a stage: a frozen dataclass with a short readable name."""

    @property
    def label(self) -> str:
        """Short, readable, fit for a folder's name."""


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
    """A held right to produce a stage; leaving the `with` block gives it up."""

    def __init__(self, lock: IO[str]) -> None:
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


class StageStore:
    """Finds, claims and commits stages under one folder, which several processes may share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stages = root / "stages"
        self._claims = root / "claims"

    def folder(self, stage: Identity) -> Path:
        """Where the stage is, or will be."""
        return self._stages / f"{stage.label}@{fingerprint(stage)}"

    def find(self, stage: Identity) -> Finished | None:
        """The stage if it is finished. Files are checked by size here and by sha256 in `verify`."""
        folder = self.folder(stage)
        manifest = _read_manifest(folder)
        if manifest is None or manifest["identity"] != canonical(stage):
            return None
        for name, entry in manifest["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                return None
        return Finished(folder, manifest)

    def verify(self, stage: Identity) -> list[str]:
        """What is wrong with a finished stage's files, by content; empty if nothing."""
        found = self.find(stage)
        if found is None:
            return [f"{self.folder(stage).name}: no valid manifest, or a file is missing or truncated"]
        return [
            f"{name}: sha256 differs from the manifest's"
            for name, entry in found.manifest["files"].items()
            if _sha256(found.folder / name) != entry["sha256"]
        ]

    def try_claim(self, stage: Identity) -> Claim | None:
        """Single flight: the right to produce the stage, or None while another process holds it.

        An advisory file lock: the kernel frees it when the holder dies, so no claim outlives its process. It holds across
        the processes of a machine and, where the file system supports it, of a shared mount.
        """
        self._claims.mkdir(parents=True, exist_ok=True)
        lock = open(self._claims / f"{fingerprint(stage)}.lock", "w")  # noqa: SIM115 - the claim closes it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return Claim(lock)

    def workspace(self, stage: Identity) -> Path:
        """A new, empty folder for the stage to write into, on the same file system as its final place."""
        self._stages.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self._stages))

    def commit(
        self, stage: Identity, workspace: Path, metrics: Mapping[str, Any], context: Mapping[str, Any]
    ) -> Finished:
        """Vouch for what the workspace holds and make it the stage. The caller holds the claim.

        Args:
            metrics: what the stage measured; JSON values.
            context: where and how it ran (versions, seconds, workers); recorded, never part of the identity.
        """
        files = {
            str(path.relative_to(workspace)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(workspace.rglob("*"))
            if path.is_file()
        }
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint(stage),
            "identity": canonical(stage),
            "metrics": dict(metrics),
            "context": dict(context),
            "files": files,
        }
        temporary = workspace / f".{MANIFEST}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, workspace / MANIFEST)
        final = self.folder(stage)
        if final.exists():  # what is there has no valid manifest, or the caller would have found it
            shutil.rmtree(final)
        os.replace(workspace, final)
        return Finished(final, manifest)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        with open(folder / MANIFEST, encoding="utf-8") as file:
            manifest = json.load(file)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    complete = isinstance(manifest, dict) and {"format", "identity", "metrics", "files"} <= set(manifest)
    return manifest if complete and manifest["format"] == FORMAT else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
