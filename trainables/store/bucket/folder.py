"""Small files that the nodes of a study share: in a folder that all mount, or in the bucket of their work folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from trainables.store.atomic import write_text
from trainables.store.bucket.client import ObjectStore, bucket_of
from trainables.store.kept import KeptFileUnusable, parse_object, read_object


class SharedFolder(Protocol):
    """JSON files by name, each of which appears whole or not at all."""

    def read(self, name: str, keys: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """The JSON object in a file, which has these keys; None if there is none.

        Raises:
            KeptFileUnusable: the file cannot be used.
        """

    def write(self, name: str, text: str) -> None:
        """Create or replace a file. Raises OSError where that fails."""

    def remove(self, name: str) -> None:
        """Remove a file, whether it exists or not."""

    def names(self) -> Iterator[str]:
        """The names of all JSON files, sorted."""


class LocalFolder:
    """A folder on a file system; it is created with its first file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, keys: tuple[str, ...] = ()) -> dict[str, Any] | None:
        return read_object(self._folder / name, keys)

    def write(self, name: str, text: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text(self._folder / name, text)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        return iter(sorted(path.name for path in self._folder.glob("*.json") if not path.name.startswith(".")))


class BucketFolder:
    """The objects below one prefix of a bucket."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, f"{prefix}/"

    def read(self, name: str, keys: tuple[str, ...] = ()) -> dict[str, Any] | None:
        where, present = Path(self._prefix) / name, self._store.get(self._prefix + name)
        if present is None:
            return None
        try:
            content = parse_object(present.content)
        except ValueError as error:
            raise KeptFileUnusable(where, str(error)) from error
        if lacking := sorted(set(keys) - content.keys()):
            raise KeptFileUnusable(where, f"lacks {', '.join(lacking)}")
        return content

    def write(self, name: str, text: str) -> None:
        self._store.put(self._prefix + name, text.encode())

    def remove(self, name: str) -> None:
        self._store.delete([self._prefix + name])

    def names(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._store.names(self._prefix))


def hand_over(path: Path) -> None:
    """Make a file of an output folder, as this node has it or has it not, available to `receive` on others."""
    bucket = bucket_of(path.parent)
    if bucket is not None and path.is_file():
        bucket.upload(path, path.name)
    elif bucket is not None:
        bucket.delete([path.name])


def receive(path: Path) -> None:
    """Bring a file that another node handed over to this one, if there is one."""
    bucket = bucket_of(path.parent)
    if bucket is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        if bucket.download(path.name, temporary) is None:
            path.unlink(missing_ok=True)
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def shared_folder(output: Path, name: str) -> SharedFolder:
    """The folder of this name in an output folder, wherever that is."""
    bucket = bucket_of(output)
    return LocalFolder(output / name) if bucket is None else BucketFolder(bucket, name)
