"""The interface to an object store, and its implementation for S3, Google Cloud Storage and Azure with `obstore`.

An object appears whole or not at all. Two puts have a condition: that no object of the name exists, or that it is still the
version that was read. Everything that must not be done twice rests on them.

A store that is slow, throttles or drops connections is asked again with growing pauses for `PATIENCE_S`. A put with a condition
may then find its own object, from an attempt whose answer was lost: contents of such puts are unique, and tell.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainables.store.bucket.location import url_of

T = TypeVar("T")

CACHE_VARIABLE = "XSTILTS_CACHE_GB"  # how much of a node's disk stages of buckets may take; half of the disk unless set
PATIENCE_S = 180.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
PART_BYTES = 16 * 2**20  # of a large file; S3 takes 10,000 parts
READ_TIMEOUT_S = 60  # without a byte
# An answer that stays: 4xx, but for a timeout, a conflict of two puts, a condition that does not hold, and too many requests.
# Azure deletes in batches; the status of a part is "(code: 403)".
_REFUSED = re.compile(r"(?:status |\()code: 4(?!08|09|12|29)\d\d")
_NO_BUCKET = re.compile(r"<Code>(NoSuchBucket|ContainerNotFound)</Code>")
# An upload in parts of which the store knows nothing: complete, where that answer was lost, or dropped. It can be made again.
_NO_UPLOAD = re.compile(r"<Code>(NoSuchUpload|InvalidBlockList)</Code>")
# Without credentials in the environment `obstore` asks the metadata server that machines of a cloud have.
_METADATA = re.compile(r"//(169\.254\.169\.254|metadata\.google\.internal)/")
METADATA_PATIENCE_S = 10.0
_ANSWER = re.compile(r"status code: (\d{3} [\w ]+).*?<Code>(\w+)</Code>\s*(?:<Message>([^<\n]*))?", re.DOTALL)
# The variables in which `obstore` finds the address of another store than the cloud's own.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
NEEDED = "reading and writing buckets needs the package obstore: pip install 'xstilts[object-storage]'"


class StorageUnavailable(OSError):
    """The object store does not answer or refuses; the message names the object and the reason, and no credentials."""

    def __init__(self, reason: str, url: str) -> None:
        super().__init__(errno.EIO, reason, url)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"

    def __reduce__(self) -> tuple[Any, ...]:
        return StorageUnavailable, (self.strerror, self.filename)


@dataclass(frozen=True)
class Version:
    """An object's content and what identifies this version of it."""

    content: bytes
    tag: str


class ObjectStore(Protocol):
    """Objects by name below one prefix. Every method raises `StorageUnavailable` once its patience is over."""

    @property
    def url(self) -> str:
        """Of the prefix."""

    def get(self, name: str) -> Version | None:
        """The object, or None where there is none."""

    def put(self, name: str, content: bytes) -> None:
        """Create or replace it."""

    def put_new(self, name: str, content: bytes) -> str | None:
        """Create it; its tag, or None where it exists with another content."""

    def put_over(self, name: str, content: bytes, tag: str) -> str | None:
        """Replace the version with this tag; the new tag, or None where the object has become another."""

    def names(self, prefix: str) -> list[str]:
        """The names that start with the prefix, which is empty or ends with `/`, sorted."""

    def folders(self, prefix: str) -> list[str]:
        """What follows the prefix, which ends with `/`, in names that have a further `/`, up to that one; sorted."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, whether they exist or not."""

    def upload(self, source: Path, name: str) -> None:
        """Create or replace the object from a file, in parts where it is large."""

    def download(self, name: str, target: Path) -> str | None:
        """Write the object to a file and return its sha256; None where there is none."""


class RemoteStore:
    """An `ObjectStore` over one of `obstore`'s stores."""

    def __init__(self, store: Any, url: str, *, patience_s: float | None = None) -> None:
        self.url, self._store = url, store
        self._patience_s = PATIENCE_S if patience_s is None else patience_s

    def get(self, name: str) -> Version | None:
        import obstore

        def read() -> Version:
            result = obstore.get(self._store, name)
            return Version(bytes(result.bytes()), _tag(result.meta))

        return self._asked(read, name, missing=True)

    def put(self, name: str, content: bytes) -> None:
        import obstore

        self._asked(lambda: obstore.put(self._store, name, content, use_multipart=False), name)

    def put_new(self, name: str, content: bytes) -> str | None:
        return self._put_if(name, content, "create")

    def put_over(self, name: str, content: bytes, tag: str) -> str | None:
        etag, _, version = tag.partition("\n")
        known = {"e_tag": etag, "version": version}
        return self._put_if(name, content, {key: value for key, value in known.items() if value})

    def _put_if(self, name: str, content: bytes, mode: Any) -> str | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def put() -> str | None:
            try:
                return _tag(obstore.put(self._store, name, content, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                present = self.get(name)
                # Refused for a put that is under way, such as an earlier attempt's.
                if present is None and mode == "create":
                    raise ConnectionError("the store refused a new object as existing, and has none") from None
                return present.tag if present is not None and present.content == content else None

        return self._asked(put, name)

    def names(self, prefix: str) -> list[str]:
        import obstore

        def listed() -> list[str]:
            batches = obstore.list(self._store, prefix or None, chunk_size=1000)
            return sorted(str(entry["path"]) for batch in batches for entry in batch)

        return self._asked(listed, prefix) or []

    def folders(self, prefix: str) -> list[str]:
        import obstore

        def listed() -> list[str]:
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
            return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

        return self._asked(listed, prefix) or []

    def delete(self, names: Iterable[str]) -> None:
        import obstore

        def remove(name: str) -> None:
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError as error:  # S3 says nothing of it, Google and Azure do
                if _NO_BUCKET.search(str(error)):
                    raise

        for name in names:
            self._asked(lambda name=name: remove(name), name)  # type: ignore[misc]

    def upload(self, source: Path, name: str) -> None:
        import obstore

        self._asked(lambda: obstore.put(self._store, name, source, chunk_size=PART_BYTES, max_concurrency=4), name)

    def download(self, name: str, target: Path) -> str | None:
        import obstore

        def read() -> str:
            digest = hashlib.sha256()
            result = obstore.get(self._store, name)
            with open(target, "wb", buffering=0) as file:
                for part in result.stream(PART_BYTES):
                    digest.update(part)
                    view = memoryview(part)
                    while view:
                        view = view[file.write(view) :]
                if file.tell() != result.meta["size"]:
                    raise ConnectionError(f"{file.tell()} of {result.meta['size']} bytes came")
            return digest.hexdigest()

        return self._asked(read, name, missing=True)

    def _asked(self, ask: Callable[[], T], name: str, *, missing: bool = False) -> T | None:
        """What `ask` returns, asked again after errors that may pass; None where the object is missing and may be."""
        from obstore.exceptions import BaseError

        started, pauses = time.monotonic(), _pauses()
        while True:
            try:
                return ask()
            except (BaseError, FileNotFoundError, ConnectionError, TimeoutError) as error:
                if missing and isinstance(error, FileNotFoundError) and not _NO_BUCKET.search(str(error)):
                    return None
                patience_s = self._patience_s
                if _METADATA.search(str(error)):
                    patience_s = min(patience_s, METADATA_PATIENCE_S)
                if _stays(error) or (pause := next(pauses)) > started + patience_s - time.monotonic():
                    raise self._unavailable(error, name) from None
                time.sleep(pause)

    def _unavailable(self, error: BaseException, name: str) -> StorageUnavailable:
        return StorageUnavailable(_reason(error), f"{self.url}/{name}")


def _stays(error: BaseException) -> bool:
    """Whether asking again is in vain."""
    from obstore import exceptions

    final = (
        FileNotFoundError,
        exceptions.PermissionDeniedError,
        exceptions.UnauthenticatedError,
        exceptions.NotSupportedError,
        exceptions.InvalidPathError,
        exceptions.UnknownConfigurationKeyError,
    )
    text = str(error)
    if _NO_UPLOAD.search(text) or _METADATA.search(text):
        return False
    return isinstance(error, final) or _REFUSED.search(text) is not None


def _reason(error: BaseException) -> str:
    """An error of `obstore` in one line: what the store answered, or else the first line.

    The others are a dump of structures with addresses and headers, and an answer may have details of what was signed.
    """
    text = str(error).strip()
    if _NO_BUCKET.search(text):
        return "there is no such bucket"
    if _METADATA.search(text):
        return "there are no credentials: none in the environment, and no metadata server of a cloud gives any"
    if answer := _ANSWER.search(text):
        status, code, message = answer.groups()
        return f"the store answered {status}, {code}: {message or ''}".rstrip(" :")[:300]
    return (text.splitlines() or [type(error).__name__])[0][:300]


def _tag(meta: Any) -> str:
    return f"{meta.get('e_tag') or ''}\n{meta.get('version') or ''}"


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_S
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def storage_variables() -> list[str]:
    """The variables of the environment that say how to reach object stores, and with what credentials."""
    prefixes = ("AWS_", "GOOGLE_", "AZURE_", "AZURITE_")
    return [name for name in os.environ if name == CACHE_VARIABLE or name.startswith(prefixes)]


@cache
def object_store(url: str) -> ObjectStore:
    """The objects below the URL, with credentials from the environment, as each cloud's own tools name them.

    `AWS_ENDPOINT_URL`, `GOOGLE_BASE_URL` and `AZURE_STORAGE_ENDPOINT` name another store than the cloud's own; one without TLS
    is used where its address says http.

    Raises:
        StorageUnavailable: `obstore` is not installed, or the environment lacks what the store needs.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ModuleNotFoundError:
        raise StorageUnavailable(NEEDED, url) from None
    scheme, _, path = url.partition("://")
    bucket, _, prefix = path.partition("/")
    plain = any(os.environ.get(variable, "").startswith("http://") for variable in _ENDPOINTS[scheme])
    options: dict[str, Any] = {
        "prefix": prefix,
        "client_options": {
            "allow_http": plain,
            "connect_timeout": "10s",
            "read_timeout": f"{READ_TIMEOUT_S}s",
            "timeout": "1h",
        },
        # Few attempts inside: a put with a condition must come back here, where its own object is recognised.
        "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
    }
    try:
        if scheme == "s3":
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            return RemoteStore(S3Store(bucket, region=region, **options), url)
        return RemoteStore((GCSStore if scheme == "gs" else AzureStore)(bucket, **options), url)
    except (BaseError, ValueError) as error:
        raise StorageUnavailable(_reason(error), url) from None


def bucket_of(folder: Path) -> ObjectStore | None:
    """The objects of the bucket that the folder is the work folder of; None for any other folder."""
    url = url_of(folder)
    return None if url is None else object_store(url)
