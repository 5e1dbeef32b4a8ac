"""The stage store of a bucket: manifests are put create-only, and stages are used from a cache on the node's disk.

`stages/<name>/manifest.json` is the point of truth. It names the prefix under which its producer put the files; a stage that
was copied from a folder has none, and its files are beside the manifest. Two producers of one stage, of which one was taken for
dead, therefore write different objects, and the first manifest stands: the other producer takes that result.

Weights are removed in the order of `trainables.store.removal`: a manifest that lists them as removed is put in place of the one
that was read, and then the objects are deleted. Who reads the stage meanwhile finds files missing, reads the manifest again,
and finds a stage without weights: never a damaged one. Copies on the nodes' disks stay until their cache needs the space. They
are used again only where they are what the present manifest lists.
"""

from __future__ import annotations

import itertools
import json
import logging
import uuid
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from trainables.store.atomic import write_text
from trainables.store.bucket.attempts import token_of
from trainables.store.bucket.cache import StageCache, most_bytes
from trainables.store.bucket.client import ObjectStore, Version
from trainables.store.bucket.folder import BucketFolder, SharedFolder
from trainables.store.bucket.leases import LEASE_S, Lease, Leases
from trainables.store.fingerprint import fingerprint
from trainables.store.inside import NameRefused, path_inside
from trainables.store.kept import sealed
from trainables.store.manifests import MANIFEST, Files, parse_manifest, wrong_contents, wrong_sizes
from trainables.store.removal import REMOVED, SUFFIX, removed_files, weight_files
from trainables.store.stage_store import (
    ClaimLost,
    Damaged,
    Finished,
    Identity,
    StageStore,
    checked,
    manifest_of,
    unverified,
)

logger = logging.getLogger(__name__)
PREFIX = "prefix"  # in a manifest: below the stage's own prefix, where its files are
TRANSFERS = 4  # files of a stage at a time
MOST_LISTED_APART = 50  # stages


class BucketStageStore(StageStore):
    """Finds, claims and commits stages in a bucket. `root` is this node's work folder; it may be missing or empty."""

    def __init__(
        self, root: Path, bucket: ObjectStore, *, lease_s: float = LEASE_S, cache_bytes: int | None = None
    ) -> None:
        super().__init__(root)
        root.mkdir(parents=True, exist_ok=True)
        self._bucket, self._leases = bucket, Leases(bucket, lease_s=lease_s)
        self._cache = StageCache(self._stages, self._claims, most_bytes(root) if cache_bytes is None else cache_bytes)
        self._damaged: dict[
            str, str
        ] = {}  # tags of the manifests of damaged stages and of those without weights, by name
        self._claimed: dict[str, Lease] = {}  # by fingerprint

    def local(self, stage: Identity) -> Path:
        found = self.find_intact(stage)
        if found is None:
            raise Damaged(f"stage {self.folder(stage).name} of {self._bucket.url} cannot be read (it is not finished)")
        return found.folder

    def local_named(self, name: str) -> Path:
        manifest = self.manifest(name)
        if manifest is None or removed_files(manifest):
            problem = "it is not finished" if manifest is None else "its weights were removed"
            raise Damaged(f"stage {name} of {self._bucket.url} cannot be read ({problem})")
        return self._fetched(name, manifest)

    def find_intact(self, stage: Identity) -> Finished | None:
        name = self.folder(stage).name
        while True:
            found = self._found(stage)
            if isinstance(found, str):
                raise Damaged(f"stage {name} of {self._bucket.url} is damaged ({found})")
            if found is None:
                return None
            try:
                self._fetched(name, found.manifest)
                return found
            except Damaged:
                if self.manifest(name) == found.manifest:  # else it was replaced, or its weights were removed
                    raise

    def verify(self, stage: Identity) -> list[str]:
        found = self._found(stage)
        if not isinstance(found, Finished):
            return [found or f"{self.folder(stage).name}: not finished"]
        try:
            return wrong_contents(self._fetched(found.folder.name, found.manifest), found.manifest)
        except Damaged as error:
            return [str(error)]

    def lacks_weights(self, stage: Identity) -> bool:
        present = self._manifest(self.folder(stage).name)
        return present is not None and bool(removed_files(parse_manifest(present.content) or {}))

    def names(self) -> list[str]:
        return self._bucket.folders("stages/")

    def manifest(self, name: str) -> Mapping[str, Any] | None:
        present = self._manifest(name)
        return None if present is None else parse_manifest(present.content)

    def removable(self, names: Sequence[str]) -> dict[str, int]:
        listed = self._listed(names)
        with_weights = [name for name in names if any(file.endswith(SUFFIX) for file in listed.get(name, ()))]
        manifests = zip(with_weights, self._each(self.manifest, with_weights), strict=True)
        return {
            name: size
            for name, manifest in manifests
            if manifest is not None and (size := _bytes_of(_weights_listed(manifest, listed[name])))
        }

    def _listed(self, names: Sequence[str]) -> dict[str, set[str]]:
        """What the bucket has of these stages, below each one's prefix. A request lists 1000 objects, or those of one stage."""
        prefixes = ["stages/"] if len(names) > MOST_LISTED_APART else [f"stages/{name}/" for name in names]
        listed: dict[str, set[str]] = {}
        for key in itertools.chain.from_iterable(self._each(self._bucket.names, prefixes)):
            name, _, file = key.removeprefix("stages/").partition("/")
            if file:  # else an object that marks a folder, as some tools put
                listed.setdefault(name, set()).add(file)
        return listed

    def remove_weights(self, name: str) -> int:
        claim = self._leases.take(_claim_of(name.rpartition("@")[2]))
        if not isinstance(claim, Lease):
            return 0
        with claim:
            present = self._manifest(name)
            manifest = None if present is None else parse_manifest(present.content)
            if present is None or manifest is None:
                return 0
            return self._remove_weights(name, manifest, present.tag)

    def _remove_weights(self, name: str, manifest: Mapping[str, Any], tag: str) -> int:
        """As `trainables.store.removal`: first a manifest that does not vouch for the weights, then their objects."""
        weights, before, prefix = weight_files(manifest), removed_files(manifest), _prefix(manifest)
        present = _weights_listed(manifest, self._listed([name]).get(name, ()))
        if weights:
            rest = {file: entry for file, entry in manifest["files"].items() if file not in weights}
            content = {**manifest, REMOVED: {**before, **weights}, "files": rest}
            if self._bucket.put_over(_key(name), _bytes(content), tag) is None:
                return 0
        self._bucket.delete(f"stages/{name}/{prefix}{file}" for file in present)
        return _bytes_of(present)

    def workspace(self, stage: Identity) -> Path:
        self._cache.trim()
        return self._cache.workspace()

    def commit(
        self, stage: Identity, workspace: Path, metrics: Mapping[str, Any], context: Mapping[str, Any]
    ) -> Finished:
        name, prefix = self.folder(stage).name, uuid.uuid4().hex
        manifest = manifest_of(stage, workspace, metrics, context, {PREFIX: prefix})
        self._each(
            lambda file: self._bucket.upload(workspace / file, f"{_files(name, manifest)}{file}"), manifest["files"]
        )
        others = self._others(name, manifest)  # before: what comes later may be that of a successor
        if not self._put_manifest(name, manifest):
            other = self._found(stage)
            if isinstance(other, Finished):
                logger.warning("stage %s: another process finished it first, and its result is used", name)
                self._bucket.delete(f"{_files(name, manifest)}{file}" for file in manifest["files"])
                self._drop_checkpoints(stage)
                self._fetched(name, other.manifest)
                return other
            if other is None:
                raise ClaimLost(
                    f"stage {name} of {self._bucket.url} was produced, and its weights removed, by another process"
                )
            raise Damaged(f"stage {name} of {self._bucket.url} was replaced while it was produced ({other})")
        self._bucket.delete(others)
        folder = self._cache.adopt(name, workspace)
        self._cache.trim()
        self._drop_checkpoints(stage)
        return Finished(folder, manifest)

    def _put_manifest(self, name: str, manifest: Mapping[str, Any]) -> bool:
        """Whether this manifest is the stage's now: the first, or in place of one found damaged or without weights."""
        if self._bucket.put_new(_key(name), _bytes(manifest)) is not None:
            return True
        tag = self._damaged.pop(name, None)
        return tag is not None and self._bucket.put_over(_key(name), _bytes(manifest), tag) is not None

    def _others(self, name: str, manifest: Mapping[str, Any]) -> list[str]:
        """What other producers have put below the stage. Once this one's manifest is there, none of them can put one for it."""
        own = {_key(name), *(f"{_files(name, manifest)}{file}" for file in manifest["files"])}
        return [key for key in self._bucket.names(f"stages/{name}/") if key not in own]

    @property
    def _failures(self) -> SharedFolder:
        return BucketFolder(self._bucket, "failures")

    def token(self, stage: Identity) -> int:
        claim = self._claimed.get(fingerprint(stage))
        return 0 if claim is None else claim.token

    def lost_claim(self, stage: Identity) -> bool:
        claim = self._claimed.get(fingerprint(stage))
        return claim is not None and claim.lost

    def _drop_checkpoints(self, stage: Identity) -> None:
        """Those of this producer and of those before it: one that has taken over is using its own."""
        super()._drop_checkpoints(stage)  # what this node has of them
        prefix, own = f"checkpoints/{self.folder(stage).name}/", self.token(stage)
        names = self._bucket.names(prefix)
        self._bucket.delete(name for name in names if token_of(name.removeprefix(prefix)) <= own)

    def manifests(self, *, but: Container[str] = ()) -> dict[str, Mapping[str, Any]]:
        names = [name for name in self.names() if name not in but]
        manifests = dict(zip(names, self._each(self.manifest, names), strict=True))
        return {name: manifest for name, manifest in manifests.items() if manifest is not None}

    def copies(self, wanted: Callable[[str, str], bool]) -> Iterator[tuple[Path, list[str]]]:
        for name, manifest in self.manifests().items():
            folder = self._evidence(name, manifest)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / MANIFEST, json.dumps(sealed(manifest), indent=1))
            files = [file for file in manifest["files"] if wanted(name, file) and not self._has(folder, file, manifest)]
            problems = self._each(partial(self._fetch, folder, name, manifest), files)
            if found := [problem for problem in problems if problem is not None]:
                raise Damaged(f"stage {name} of {self._bucket.url} is damaged ({found[0]})")
            yield folder, sorted(manifest["files"])

    def _evidence(self, name: str, manifest: Mapping[str, Any]) -> Path:
        """The folder for a stage's copy. Raises `Damaged` where a name leads out of it: callers take files by their names."""
        try:
            folder = path_inside(self.root / "evidence", name)
            for file in manifest["files"]:
                path_inside(folder, file)
        except NameRefused as error:
            raise Damaged(f"stage {name} of {self._bucket.url} is refused ({error})") from error
        return folder

    def _has(self, folder: Path, file: str, manifest: Mapping[str, Any]) -> bool:
        listed = {"files": {file: manifest["files"][file]}}
        return not wrong_contents(folder, listed)

    def _try_claim(self, name: str) -> Lease | None:
        taken = self._leases.try_take(_claim_of(name))
        if not isinstance(taken, Lease):
            return None
        self._claimed[name] = taken
        return taken

    def _found(self, stage: Identity) -> Finished | str | None:
        """The stage, or what is wrong with its manifest, or None where it has none or lacks its weights."""
        name = self.folder(stage).name
        present = self._manifest(name)
        if present is None:
            return None
        manifest = parse_manifest(present.content)
        found = checked(stage, self._stages / name, manifest)
        if not isinstance(found, Finished):
            self._damaged[name] = present.tag
        return found

    def _status(self, stage: Identity) -> Finished | str | None:
        return self._found(stage)

    def _manifest(self, name: str) -> Version | None:
        return self._bucket.get(_key(name))

    def _fetched(self, name: str, manifest: Mapping[str, Any]) -> Path:
        """The stage's folder in the cache. Raises `Damaged` where the bucket does not have what the manifest lists."""

        def usable(folder: Path) -> bool:
            return not any(wrong_sizes(folder, manifest)) and not unverified(folder, manifest)

        def fetch(folder: Path) -> None:
            files = manifest["files"]
            self._cache.trim(needed=_bytes_of(files))
            problems = self._each(partial(self._fetch, folder, name, manifest), files)
            if found := [problem for problem in problems if problem is not None]:
                present = self._manifest(name)
                if present is not None and parse_manifest(present.content) == manifest:
                    self._damaged[name] = present.tag
                raise Damaged(f"stage {name} of {self._bucket.url} is damaged ({found[0]})")
            write_text(folder / MANIFEST, json.dumps(sealed(manifest), indent=1))

        folder = self._cache.hold(name, fetch, usable)
        self._cache.trim()
        return folder

    def _fetch(self, folder: Path, name: str, manifest: Mapping[str, Any], file: str) -> str | None:
        try:
            target = path_inside(folder, file)
        except NameRefused as error:
            return f"refused: {error}"
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = self._bucket.download(f"{_files(name, manifest)}{file}", target)
        if digest is None:
            return f"{file}: missing"
        return None if digest == manifest["files"][file]["sha256"] else f"{file}: sha256 differs from the manifest's"

    def _each(self, do: Callable[[str], Any], names: Any) -> list[Any]:
        with ThreadPoolExecutor(TRANSFERS) as pool:
            return list(pool.map(do, names))


def _key(name: str) -> str:
    return f"stages/{name}/{MANIFEST}"


def _claim_of(name: str) -> str:
    return f"claims/{name}.json"


def _files(name: str, manifest: Mapping[str, Any]) -> str:
    """What the names of a stage's files start with."""
    return f"stages/{name}/{_prefix(manifest)}"


def _prefix(manifest: Mapping[str, Any]) -> str:
    prefix = manifest.get(PREFIX)
    return f"{prefix}/" if prefix else ""


def _weights_listed(manifest: Mapping[str, Any], listed: Container[str]) -> Files:
    """The stage's weights that are in the bucket, also those that an interrupted removal left."""
    weights = {**removed_files(manifest), **weight_files(manifest)}
    return {file: entry for file, entry in weights.items() if f"{_prefix(manifest)}{file}" in listed}


def _bytes_of(files: Files) -> int:
    return sum(int(entry["bytes"]) for entry in files.values())


def _bytes(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(sealed(manifest), indent=1, allow_nan=False).encode()
