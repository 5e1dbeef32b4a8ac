"""The stage store: `<root>/stages/<name>@<fingerprint>/`, finished when its manifest is committed.

A stage writes into a folder of its own beside the final place; the manifest is written last, every file it vouches for
is named with size and sha256, and one rename makes the whole visible. What has no valid manifest does not exist, and what has
other bytes than its manifest says is damaged: `whole` finds out, before anybody works with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self

from trainables.store.fingerprint import canonical, fingerprint
from trainables.store.manifests import MANIFEST, read_manifest, sync_folder, write_manifest, wrong_contents, wrong_sizes

FORMAT = 1
# Stages whose bytes this process knows to be right, with the manifest that it held them against. Hashing runs at 1 to 2 GB/s
# and file, less where the disk is slower: 20 to 40 s for the 40 GB of the largest encoder.
_known: dict[Path, Mapping[str, Any]] = {}


class Damaged(RuntimeError):
    """A finished stage whose files are not what its manifest says."""


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
        self._checkpoints = root / "checkpoints"
        self._failures = root / "failures"

    def folder(self, stage: Identity) -> Path:
        """Where the stage is, or will be."""
        return self._stages / f"{stage.label}@{fingerprint(stage)}"

    def find(self, stage: Identity) -> Finished | None:
        """The stage if it is finished, its files checked by size alone: for whoever reads no more than the manifest."""
        found = self._look(stage)
        return found if isinstance(found, Finished) else None

    def whole(self, stage: Identity) -> Finished | None:
        """As `find`, for whoever reads the files: checked by sha256 too, once in a process.

        Raises:
            Damaged: the stage was finished, and is not what it was.
        """
        found = self._look(stage)
        if isinstance(found, Finished) and _known.get(found.folder) != found.manifest:
            wrong = wrong_contents(found.folder, found.manifest)
            if not wrong:
                _known[found.folder] = found.manifest
            else:
                found = wrong[0]
        if isinstance(found, str):
            raise Damaged(f"stage {self.folder(stage).name} is damaged ({found})")
        return found

    def verify(self, stage: Identity) -> list[str]:
        """What is wrong with a finished stage's files, by content, read again each time; empty if nothing."""
        found = self._look(stage)
        if not isinstance(found, Finished):
            return [found or f"{self.folder(stage).name}: not finished"]
        return wrong_contents(found.folder, found.manifest)

    def _look(self, stage: Identity) -> Finished | str | None:
        """The stage, or what is wrong with its folder as far as the manifest and sizes tell, or None if there is no folder."""
        folder = self.folder(stage)
        if not folder.exists():
            return None
        manifest = read_manifest(folder)
        if manifest is None or not {"format", "identity", "metrics"} <= set(manifest):
            return f"{MANIFEST}: missing or unreadable"
        if manifest["format"] != FORMAT:
            return f"{MANIFEST}: of format {manifest['format']}, {FORMAT} expected"
        if manifest["identity"] != canonical(stage):
            return f"{MANIFEST}: of another stage"
        return next(wrong_sizes(folder, manifest), None) or Finished(folder, manifest)

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
        manifest = write_manifest(
            workspace,
            {
                "format": FORMAT,
                "fingerprint": fingerprint(stage),
                "identity": canonical(stage),
                "metrics": dict(metrics),
                "context": dict(context),
            },
        )
        final = self.folder(stage)
        if final.exists():  # what is there is damaged, or the caller would have found it
            shutil.rmtree(final)
        os.replace(workspace, final)
        sync_folder(self._stages)  # whoever hears of the stage may write it down for good
        _known[final] = manifest
        shutil.rmtree(self.checkpoints(stage), ignore_errors=True)
        return Finished(final, manifest)

    def checkpoints(self, stage: Identity) -> Path:
        """Where the stage's own checkpoints lie while it is made."""
        return self._checkpoints / self.folder(stage).name

    def note_failure(self, stage: Identity, reason: Mapping[str, Any]) -> None:
        """Remember that the stage's own training has no result, so that nobody tries again. The caller holds the claim."""
        self._failures.mkdir(parents=True, exist_ok=True)
        path = self._failure(stage)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"identity": canonical(stage), **reason}, indent=1), encoding="utf-8")
        os.replace(temporary, path)
        shutil.rmtree(self.checkpoints(stage), ignore_errors=True)

    def failure(self, stage: Identity) -> Mapping[str, Any] | None:
        """What `note_failure` was told of the stage."""
        try:
            noted: dict[str, Any] = json.loads(self._failure(stage).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return noted if noted["identity"] == canonical(stage) else None

    def _failure(self, stage: Identity) -> Path:
        return self._failures / f"{self.folder(stage).name}.json"
