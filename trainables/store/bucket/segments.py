"""What a driver writes in its work folder, kept in the bucket as numbered segments, and restored from there on another head.

A segment says what changed since the one before: lines that were appended to a journal, and files that are new, other or gone.
It is put create-only under the next number, so the segments are one sequence whatever happens. Files are objects named by their
hash, put before the segment that names them. A segment that is a `base` lists everything, and older ones are not read again.

A driver takes over by putting a base. Another that was taken for dead finds its next number taken, and stops: `Superseded`. Its
last segment may come before that base, which then includes it. One that slept for longer may find its next number free again,
because a later base removed it; then the segment that it would continue is gone as well. It looks for that one before a put and
after it. What it puts between the two is below the newest base, where nobody reads it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.store.atomic import replacing
from trainables.store.bucket.client import ObjectStore, StorageUnavailable
from trainables.store.bucket.leases import Lease
from trainables.store.inside import NameRefused, path_inside
from trainables.store.kept import parse_object, sealed

SEGMENTS, FILES = "journal/", "files/"
# Journals that only grow, in the order in which they are read: what the first says of a trial, the second has before.
OUTBOX = "outbox/journal.jsonl"
APPENDED = (OUTBOX, "optuna.journal")
# What nodes keep in the bucket by themselves, what Ray writes and nothing reads, and MLflow's database: the outbox refills it.
LEFT_OUT = {"stages", "claims", "checkpoints", "failures", "attempts", "micro_batches", "evidence"}
LEFT_OUT |= {"tune", "ray_train", "mlflow.db", "artifacts", "report.html", "report_files", "status.json"}
MOST_SEGMENTS = 500  # after a base


class Superseded(StorageUnavailable):
    """Another driver has taken the study over."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Superseded, (self.strerror, self.filename)


@dataclass
class _Contents:
    """What the segments say: each file by its path, as an object's hash and what was appended to it since."""

    number: int = 0
    base: int = 0
    newest: str = ""  # hash of the newest segment
    files: dict[str, tuple[str, str]] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)  # hashes of all that a segment names, also of files that are gone

    def apply(self, segment: Mapping[str, Any]) -> None:
        if segment["base"]:
            self.files.clear()
        for path in segment["removed"]:
            self.files.pop(path, None)
        self.objects.update(segment["files"].values())
        for path, digest in segment["files"].items():
            self.files[path] = (digest, "")
        for path, text in segment["appended"].items():
            digest, before = self.files.get(path, ("", ""))
            self.files[path] = (digest, before + text)


@dataclass(frozen=True)
class _Stamp:
    """How a file of the work folder was when it was last put: how many bytes of it were, and what tells a change.

    `size` is the file's, in bytes, which the end of a line that was not complete makes larger. A coarse clock gives two writes
    one time.
    """

    bytes: int
    size: int
    changed_ns: int
    inode: int


class Segments:
    """The segments of one study and the work folder that they are of. One thread at a time uses it.

    Args:
        lease: of the driver that puts segments; nothing is put once it is lost.
        apart: paths of files that are about this folder's MLflow database, and stay with it.
    """

    def __init__(
        self, store: ObjectStore, folder: Path, lease: Lease | None = None, *, apart: frozenset[str] = frozenset()
    ) -> None:
        self._store, self._folder, self._lease, self._apart = store, folder, lease, apart
        self._read_before: dict[int, tuple[str, Mapping[str, Any]]] = {}  # segments by number, each with its hash
        self._journals: dict[str, bytes] = {}  # what the newest base has of journals, by hash
        self._number = self._base = 0
        self._newest = ""  # hash of the segment of that number
        self._known = set[str]()  # hashes of objects that this driver put, or that segments which it read name
        self._put: dict[str, _Stamp] = {}
        self._objects: dict[str, str] = {}  # hashes of the files' objects by path

    def newest(self) -> str:
        """The name of the newest segment, empty without any: a change of it says that `restore` has something to do."""
        return max(self._store.names(SEGMENTS), default="")

    def restore(self) -> None:
        """Make the folder what the segments say, unless it continues it; without any, what was copied there from a folder.

        A folder continues the segments where its journals begin with theirs: it is their driver's own, and its journals may
        be ahead of them. Of its other files, those with other contents are replaced, and those without segments stay. A folder
        precedes them where their journals begin with its own: it was restored before. It keeps its MLflow database, which has
        nothing that the segments lack.
        """
        contents = self._read()
        self._number, self._base, self._newest = contents.number, contents.base, contents.newest
        self._known |= contents.objects
        if not contents.number:
            self._restore_copy()
            return
        missing = contents.files.keys() - self._apart
        if self._continues(contents):
            missing = {path for path in missing if path not in APPENDED and not self._has(path, contents)}
        elif self._precedes(contents):
            for path in set(self._paths()) - contents.files.keys():
                (self._folder / path).unlink(missing_ok=True)
            missing = {path for path in missing if path in APPENDED or not self._has(path, contents)}
        else:
            _clear(self._folder)
        for path in sorted(missing):
            self._write(path, self._content_of(path, contents))

    def _restore_copy(self) -> None:
        """Make the folder what was copied to the bucket; it keeps its MLflow database where it has the copy's journals."""
        versions = {path: self._store.get(path) for path in _copied(self._store) if path not in self._apart}
        copied = {path: present.content for path, present in versions.items() if present is not None}
        local = {path: _content(self._folder / path) for path in (*APPENDED, *copied)}
        if all(local[path] == copied.get(path) for path in APPENDED) and any(path in copied for path in APPENDED):
            copied = {path: content for path, content in copied.items() if content != local[path]}
        else:
            _clear(self._folder)
        for path, content in copied.items():
            self._write(path, content)

    def take_over(self) -> None:
        """Restore the folder and put a base: from here on no other driver can put a segment.

        Raises:
            Superseded: another process took the lease meanwhile.
            StorageUnavailable: the object store does not answer.
        """
        while True:
            self._check_lease()
            self.restore()
            self._put.clear()
            if self._put_segment(base=True):
                return

    def shipped_bytes(self, path: str) -> int:
        """How much of a journal the segments have."""
        stamp = self._put.get(path)
        return 0 if stamp is None else stamp.bytes

    def ship(self) -> bool:
        """Put what changed since the last segment, and return whether anything did.

        Raises:
            Superseded: another driver has taken over.
            StorageUnavailable: the object store does not answer.
        """
        self._check_lease()
        base = self._number - self._base >= MOST_SEGMENTS
        if base:
            self._put.clear()
        changed = base or any(True for _ in self._changes()) or bool(self._gone())
        if changed and not self._put_segment(base=base):
            raise self._superseded()
        return changed

    def confirm(self) -> None:
        """Raises Superseded: another driver has taken over, though nothing of it has been noticed here so far."""
        if not self._is_continued() or self._store.get(_name(self._number + 1)) is not None:
            raise self._superseded()

    def _superseded(self) -> Superseded:
        return Superseded("another driver has taken the study over", self._store.url)

    def _check_lease(self) -> None:
        if self._lease is not None and self._lease.lost:
            raise self._superseded()

    def _is_continued(self) -> bool:
        """Whether no other driver's base removed the segment which the next one continues."""
        self._check_lease()
        if not self._number:
            return self._store.names(SEGMENTS) in ([], [_name(1)])
        present = self._store.get(_name(self._number))
        return present is not None and _sha256(present.content) == self._newest

    def _put_segment(self, *, base: bool) -> bool:
        """Whether it is the next one.

        Raises:
            Superseded: the lease is lost.
        """
        files, appended, stamps = dict[str, str](), dict[str, str](), dict[str, _Stamp]()
        for path, stamp in self._changes():
            before = self._put.get(path)
            content = _content(self._folder / path)
            if content is None:
                continue
            if path in APPENDED:
                content = content[: content.rfind(b"\n") + 1]
                stamp = _Stamp(len(content), stamp.size, stamp.changed_ns, stamp.inode)
            if path in APPENDED and before is not None and before.inode == stamp.inode and before.bytes <= len(content):
                if text := content[before.bytes :].decode():
                    appended[path] = text
            else:
                files[path] = self._put_object(content)
            stamps[path] = stamp
        removed = self._gone()
        segment = {"base": base, "files": files, "appended": appended, "removed": removed, "write": uuid.uuid4().hex}
        number, content = self._number + 1, json.dumps(sealed(segment)).encode()
        if not self._is_continued() or self._store.put_new(_name(number), content) is None or not self._is_continued():
            return False
        self._number, self._newest = number, _sha256(content)
        self._objects |= files
        for path in removed:
            self._put.pop(path), self._objects.pop(path, None)
        self._put |= stamps
        if base:
            self._objects, self._base = files, number
            self._forget_older()
        return True

    def _put_object(self, content: bytes) -> str:
        digest = _sha256(content)
        self._known.add(digest)
        self._store.put_new(FILES + digest, content)  # None where it is there already
        return digest

    def _forget_older(self) -> None:
        """Delete what no reader needs from the base on. A reader that has begun before finds it gone, and begins again.

        Objects that this driver does not know stay: they may be of segments that another one is about to put.
        """
        self._store.delete(name for name in self._store.names(SEGMENTS) if name < _name(self._base))
        unneeded = self._known - set(self._objects.values())
        self._store.delete(FILES + digest for digest in sorted(unneeded))
        self._known -= unneeded

    def _changes(self) -> Iterator[tuple[str, _Stamp]]:
        """Files that are not as they were put.

        Journals come first, and other files are listed after they were read: what a journal says of a file is then there.
        """
        yield from self._changed(path for path in APPENDED if path not in self._apart)
        yield from self._changed(path for path in self._paths() if path not in APPENDED)

    def _changed(self, paths: Iterable[str]) -> Iterator[tuple[str, _Stamp]]:
        for path in paths:
            try:
                status = (self._folder / path).stat()
            except FileNotFoundError:
                continue
            size, before = status.st_size, self._put.get(path)
            stamp = _Stamp(size, size, status.st_mtime_ns, status.st_ino)
            if before is None or _differ(before, stamp):
                yield path, stamp

    def _gone(self) -> list[str]:
        return sorted(self._put.keys() - set(self._paths()))

    def _paths(self) -> list[str]:
        return [path for path in _paths(self._folder) if path not in self._apart]

    def _read(self) -> _Contents:
        """What the segments say, from the newest base on."""
        numbers = [int(name.removeprefix(SEGMENTS)) for name in self._store.names(SEGMENTS)]
        contents, newest_first = _Contents(max(numbers, default=0)), list[Mapping[str, Any]]()
        for number in range(contents.number, 0, -1):
            digest, segment = self._read_before.get(number) or self._segment(number)
            self._read_before[number] = digest, segment
            newest_first.append(segment)
            contents.newest = contents.newest or digest
            if segment["base"]:
                contents.base = number
                break
        self._read_before = {number: read for number, read in self._read_before.items() if number >= contents.base}
        for segment in reversed(newest_first):
            contents.apply(segment)
        for path in contents.files:
            self._target(path)
        return contents

    def _segment(self, number: int) -> tuple[str, Mapping[str, Any]]:
        present = self._store.get(_name(number))
        if present is None:
            raise StorageUnavailable(f"segment {number} is missing", f"{self._store.url}/{_name(number)}")
        return _sha256(present.content), _parsed(present.content, f"{self._store.url}/{_name(number)}")

    def _content_of(self, path: str, contents: _Contents) -> bytes:
        digest, appended = contents.files[path]
        before = self._journals.get(digest)
        if before is None:
            before = _object(self._store, digest) if digest else b""
        if path in APPENDED:
            of_journals = {contents.files[journal][0] for journal in APPENDED if journal in contents.files}
            self._journals = {name: known for name, known in self._journals.items() if name in of_journals} | {
                digest: before
            }
        return before + appended.encode()

    def _continues(self, contents: _Contents) -> bool:
        """Whether the folder's journals begin with what the segments have of them."""
        kept = [path for path in APPENDED if path in contents.files]
        return bool(kept) and all(
            (local := _content(self._folder / path)) is not None and local.startswith(self._content_of(path, contents))
            for path in kept
        )

    def _precedes(self, contents: _Contents) -> bool:
        """Whether what the segments have of the journals begins with what the folder has of them, which is something."""
        local = {path: _content(self._folder / path) for path in APPENDED}
        return any(local.values()) and all(
            not text or (path in contents.files and self._content_of(path, contents).startswith(text))
            for path, text in local.items()
        )

    def _has(self, path: str, contents: _Contents) -> bool:
        """Whether the folder has the file as it was put."""
        local, (digest, appended) = self._folder / path, contents.files[path]
        return local.is_file() and not appended and _sha256(local.read_bytes()) == digest

    def _target(self, path: str) -> Path:
        """Where a file is written that the bucket names. Raises `StorageUnavailable` where that is none of a work folder."""
        try:
            if not _is_kept(path.partition("/")[0]):
                raise NameRefused(f"{path!r} is no file that a driver keeps in a bucket")
            return path_inside(self._folder, path)
        except NameRefused as error:
            raise StorageUnavailable(f"refused: {error}", self._store.url) from error

    def _write(self, path: str, content: bytes) -> None:
        target = self._target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_bytes(content)


def _differ(before: _Stamp, now: _Stamp) -> bool:
    return (before.size, before.changed_ns, before.inode) != (now.size, now.changed_ns, now.inode)


def _paths(folder: Path) -> list[str]:
    """The files of a work folder that segments are of."""
    return [
        path.relative_to(folder).as_posix()
        for top in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if _is_kept(top.name)
        for path in ([top] if top.is_file() else sorted(top.rglob("*")))
        if path.is_file() and not path.name.startswith(".")
    ]


def _is_kept(name: str) -> bool:
    """Whether segments are of the file or folder of this name in a work folder."""
    return not name.startswith((".", "mlflow.db")) and not name.endswith(".lock") and name not in LEFT_OUT


def _copied(store: ObjectStore) -> list[str]:
    """The files that a folder's copy in the bucket has."""
    names = [name for name in store.names("") if _is_kept(name.partition("/")[0])]
    return [name for name in names if not name.startswith((SEGMENTS, FILES))]


def _clear(folder: Path) -> None:
    """Remove what segments are of, and MLflow's database, which may have more than the outbox will."""
    for top in list(folder.iterdir()) if folder.is_dir() else ():
        if _is_kept(top.name) or top.name.startswith("mlflow.db") or top.name == "artifacts":
            shutil.rmtree(top) if top.is_dir() else top.unlink()


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _name(number: int) -> str:
    return f"{SEGMENTS}{number:012d}"


def _object(store: ObjectStore, digest: str) -> bytes:
    present = store.get(FILES + digest)
    if present is None or _sha256(present.content) != digest:
        raise StorageUnavailable("it is missing or damaged", f"{store.url}/{FILES}{digest}")
    return present.content


def _parsed(content: bytes, where: str) -> Mapping[str, Any]:
    try:
        segment = parse_object(content)
    except ValueError as error:
        raise StorageUnavailable(f"the segment is damaged: {error}", where) from error
    return segment
