"""An Azure Blob Storage on loopback: as much of its REST API as `obstore` uses, in memory.

Written after the reference at https://learn.microsoft.com/rest/api/storageservices, whose pages give the answers:

| request | page | answers |
|---|---|---|
| any | status-and-error-codes2, blob-service-error-codes, common-rest-api-error-codes | `Error` after a byte order mark, \
`x-ms-error-code`; 403 AuthenticationFailed, 404 ContainerNotFound, 503 ServerBusy |
| put a blob | put-blob | 201 with ETag |
| with a condition | specifying-conditional-headers-for-blob-service-operations | 412 ConditionNotMet |
| put a block, and a list of them | put-block, put-block-list | 201; 400 InvalidBlockList, InvalidBlobOrBlock |
| get a blob | get-blob | 200, or 206 for a range; 404 BlobNotFound, 412 ConditionNotMet |
| delete blobs | blob-batch, delete-blob | 202 of parts, of which each is 202, or 404 BlobNotFound |
| list | list-blobs, enumerating-blob-resources | 200, with NextMarker where there are more |

One answer is not that of the page on conditions: `If-None-Match: *` for a blob that exists gets 409 BlobAlreadyExists, which is
among the error codes and in reports of users (https://github.com/Azure/azure-storage-python/issues/422).
Blocks are of a blob's name, not of an upload; a list that names blocks which an earlier list committed is refused.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.object_http import BUCKET, Answer, ObjectHandler, ObjectServer, Stored, served

ACCOUNT = "studyaccount"
SECRET = base64.b64encode(b"azure-account-key").decode()
SIGNATURE = "shared-access-signature"  # of a SAS token, which stands in the query
_VERSION = "2023-11-03"
_MESSAGES = {
    "AuthenticationFailed": "Server failed to authenticate the request.",
    "AuthorizationPermissionMismatch": "This request is not authorized to perform this operation using this permission.",
    "MissingRequiredHeader": "A required HTTP header was not specified.",
    "InvalidBlockList": "The specified block list is invalid.",
    "InvalidBlobOrBlock": "The specified blob or block content is invalid.",
    "ContainerNotFound": "The specified container does not exist.",
    "BlobNotFound": "The specified blob does not exist.",
    "BlobAlreadyExists": "The specified blob already exists.",
    "ConditionNotMet": "The condition specified using HTTP conditional header(s) is not met.",
    "InternalError": "The server encountered an internal error. Please retry the request.",
    "ServerBusy": "The server is busy.",
}
_CODES = {403: "AuthorizationPermissionMismatch", 409: "BlobAlreadyExists", 412: "ConditionNotMet", 503: "ServerBusy"}


@contextmanager
def served_azure() -> Iterator[ObjectServer]:
    """Serve until the end of the block, with the environment of this process set to it."""
    environment = {
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:{port}",
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": SECRET,
    }
    with served(_Azure, "az", SECRET, environment) as server:
        yield server


class _Azure(ObjectHandler):
    @property
    def bucket_and_name(self) -> tuple[str, str]:
        """As in an emulator's addresses, the account may come first."""
        bucket, name = super().bucket_and_name
        if bucket == ACCOUNT:
            bucket, _, name = name.partition("/")
        return bucket, name

    def failure(self, status: int) -> Answer:
        return _error(status, _CODES.get(status, "InternalError"))

    def answer(self, body: bytes) -> Answer:
        bucket, name = self.bucket_and_name
        signed = self.headers.get("Authorization", "").startswith(f"SharedKey {ACCOUNT}:")
        if not signed and self.query.get("sig") != SIGNATURE:
            return _error(403, "AuthenticationFailed")
        if bucket != BUCKET:
            return _error(404, "ContainerNotFound")
        with self.contents.lock:
            match self.command, self.query.get("comp"):
                case "GET", "list":
                    return self._list()
                case "POST", "batch":
                    return self._batch(body.decode())
                case "GET", None:
                    return self._get(name)
                case "PUT", "block":
                    return self._put_block(name, body)
                case "PUT", "blocklist":
                    return self._put_block_list(name, body.decode())
                case _:
                    return self._put(name, body)

    def _put(self, name: str, body: bytes) -> Answer:
        if self.headers.get("x-ms-blob-type") != "BlockBlob":
            return _error(400, "MissingRequiredHeader")
        if (refused := self._refused_write(name)) is not None:
            return refused
        self.contents.parts.pop(name, None)
        return Answer(201, headers=_headers(self.contents.write(name, body)))

    def _refused_write(self, name: str) -> Answer | None:
        present = self.contents.objects.get(name)
        if self.headers.get("If-None-Match") == "*" and present is not None:
            return self.failure(409)
        wanted = self.headers.get("If-Match")
        if wanted is not None and (present is None or _etag(present) != wanted):
            return self.failure(412)
        return None

    def _put_block(self, name: str, body: bytes) -> Answer:
        blocks, block = self.contents.parts.setdefault(name, {}), self.query["blockid"]
        if any(len(other) != len(block) for other in blocks):
            return _error(400, "InvalidBlobOrBlock")
        blocks[block] = body
        return Answer(201)

    def _put_block_list(self, name: str, listed: str) -> Answer:
        blocks = self.contents.parts.get(name, {})
        wanted = re.findall(r"<Uncommitted>([^<]+)</Uncommitted>", listed)
        if any(block not in blocks for block in wanted):
            return _error(400, "InvalidBlockList")
        if (refused := self._refused_write(name)) is not None:
            return refused
        self.contents.parts.pop(name, None)
        return Answer(201, headers=_headers(self.contents.write(name, b"".join(blocks[block] for block in wanted))))

    def _get(self, name: str) -> Answer:
        stored = self.contents.objects.get(name)
        if stored is None:
            return _error(404, "BlobNotFound")
        if self.headers.get("If-Match", _etag(stored)) != _etag(stored):
            return self.failure(412)
        return self.read(stored, {**_headers(stored), "x-ms-blob-type": "BlockBlob"})

    def _list(self) -> Answer:
        query = self.query
        prefix, most = query.get("prefix", ""), min(int(query.get("maxresults", 5000)), self.objects.page)
        after = bytes.fromhex(query.get("marker", "")).decode()  # opaque to the client
        objects, folders, more = self.contents.page(prefix, query.get("delimiter", ""), after, most)
        blobs = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{stored.modified}</Last-Modified>"
            f"<Etag>{_etag(stored).strip(chr(34))}</Etag><Content-Length>{len(stored.content)}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name, stored in objects
        )
        blobs += "".join(f"<BlobPrefix><Name>{escape(folder)}</Name></BlobPrefix>" for folder in folders)
        return Answer(
            200,
            f'\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{BUCKET}">'
            f"<Prefix>{escape(prefix)}</Prefix><Blobs>{blobs}</Blobs>"
            f"<NextMarker>{more.encode().hex()}</NextMarker></EnumerationResults>".encode(),
            {"Content-Type": "application/xml", "x-ms-version": _VERSION},
        )

    def _batch(self, body: str) -> Answer:
        """Each part of the body is a request of its own, and so may have a fault of its own."""
        boundary = f"batchresponse_{uuid.uuid4()}"
        parts = []
        for number, path in re.findall(r"Content-ID: (\d+)\r\n\r\nDELETE (\S+) HTTP/1.1", body):
            answer = self._delete(path)
            reason = "Accepted" if answer.status == 202 else _MESSAGES[answer.headers["x-ms-error-code"]]
            headers = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
            parts.append(
                f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
                f"HTTP/1.1 {answer.status} {reason}\r\n{headers}\r\n{answer.content.decode()}\r\n"
            )
        return Answer(
            202,
            f"{''.join(parts)}--{boundary}--\r\n".encode(),
            {"Content-Type": f"multipart/mixed; boundary={boundary}", "x-ms-version": _VERSION},
        )

    def _delete(self, path: str) -> Answer:
        fault = self.objects.fault_of("DELETE", path)
        if fault is not None and fault.status:
            return self.failure(fault.status)
        name = unquote(urlsplit(path).path).partition(f"/{BUCKET}/")[2]
        if self.contents.objects.pop(name, None) is None:
            return _error(404, "BlobNotFound")
        return Answer(202, headers={"x-ms-request-id": str(uuid.uuid4()), "x-ms-version": _VERSION})


def _etag(stored: Stored) -> str:
    return f'"0x{stored.number:X}"'


def _headers(stored: Stored) -> dict[str, str]:
    return {"ETag": _etag(stored), "Last-Modified": stored.modified, "x-ms-version": _VERSION}


def _error(status: int, code: str) -> Answer:
    content = (
        f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{_MESSAGES[code]}\n'
        f"RequestId:{uuid.uuid4()}\nTime:2026-01-01T00:00:00.0000000Z</Message></Error>"
    )
    headers = {"x-ms-error-code": code, "x-ms-version": _VERSION, "Content-Type": "application/xml"}
    return Answer(status, content.encode(), headers)
