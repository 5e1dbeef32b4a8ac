"""A Google Cloud Storage on loopback: as much of its XML API as `obstore` uses, in memory (on a disk: `gcs_on_disk.py`).

Written after the reference at https://cloud.google.com/storage/docs/xml-api, whose pages give the answers:

| request | page | answers |
|---|---|---|
| any | reference-status | `Error` with `Code` and `Message`; 401 AuthenticationRequired, 404 NoSuchBucket |
| put an object | put-object-upload, reference-headers | 200 with ETag and `x-goog-generation`; 412 PreconditionFailed |
| get it | get-object-download | 200, or 206 for a range; 404 NoSuchKey, 412 PreconditionFailed |
| delete it | delete-object | 204; 404 NoSuchKey |
| list | get-bucket-list | 200, with NextContinuationToken where there are more |
| start an upload in parts | post-object-multipart | 200 with UploadId |
| put a part | put-object-multipart | 200 with its ETag; 404 NoSuchUpload |
| complete it | post-object-complete | 200 with ETag; 400 InvalidPart, EntityTooSmall, 404 NoSuchUpload |
| abort it | delete-multipart | 204; 404 NoSuchUpload |

A generation of 0 as condition means that there is no such object. The ETag of an object that was put whole is the MD5 of its
content, so two versions may share it; their generations differ.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from xml.sax.saxutils import escape

from tests.support.object_http import BUCKET, Answer, ObjectHandler, ObjectServer, Stored, served

SECRET = "ya29.gcs-bearer-token"
_SMALLEST_PART = 5 * 2**20  # but for the last one, by "Quotas and limits"
_MESSAGES = {
    "AuthenticationRequired": "Authentication required.",
    "AccessDenied": "Access denied.",
    "NoSuchBucket": "The specified bucket does not exist.",
    "NoSuchKey": "The specified key does not exist.",
    "NoSuchUpload": "The requested upload was not found.",
    "InvalidPart": "One or more of the specified parts could not be found.",
    "EntityTooSmall": "Your proposed upload is smaller than the minimum object size specified for your operation.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold.",
    "SlowDown": "Reduce your request rate.",
    "InternalError": "We encountered an internal error. Please try again.",
    "ServiceUnavailable": "The service is unavailable. Please retry.",
}
_CODES = {401: "AuthenticationRequired", 403: "AccessDenied", 412: "PreconditionFailed", 429: "SlowDown"}


@contextmanager
def served_google() -> Iterator[ObjectServer]:
    """Serve until the end of the block, with the environment of this process set to it."""
    with served(Google, "gs", SECRET, environment("{port}")) as server:
        yield server


def environment(port: int | str) -> dict[str, str]:
    """The variables by which `trainables.store.bucket` reaches one at this port."""
    return {"GOOGLE_BASE_URL": f"http://127.0.0.1:{port}", "GOOGLE_BEARER_TOKEN": SECRET}


class Google(ObjectHandler):
    def failure(self, status: int) -> Answer:
        return _error(status, _CODES.get(status, "ServiceUnavailable" if status == 503 else "InternalError"))

    def answer(self, body: bytes) -> Answer:
        bucket, name = self.bucket_and_name
        if self.headers.get("Authorization") != f"Bearer {SECRET}":
            return self.failure(401)
        if bucket != BUCKET:
            return _error(404, "NoSuchBucket")
        with self.contents.lock:
            if not name:
                return self._list()
            if "uploads" in self.query or "uploadId" in self.query:
                return self._part_of_upload(name, body)
            return {"PUT": self._put, "GET": self._get, "DELETE": self._delete}[self.command](name, body)

    def _put(self, name: str, body: bytes) -> Answer:
        present = self.contents.objects.get(name)
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (0 if present is None else present.number):
            return self.failure(412)
        return Answer(200, headers=_headers(self.contents.write(name, body)))

    def _get(self, name: str, body: bytes) -> Answer:
        stored = self.contents.objects.get(name)
        if stored is None:
            return _error(404, "NoSuchKey")
        headers = _headers(stored)
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            return self.failure(412)
        return self.read(stored, headers)

    def _delete(self, name: str, body: bytes) -> Answer:
        return _error(404, "NoSuchKey") if self.contents.objects.pop(name, None) is None else Answer(204)

    def _list(self) -> Answer:
        query = self.query
        prefix, most = query.get("prefix", ""), min(int(query.get("max-keys", 1000)), self.objects.page)
        after = bytes.fromhex(query.get("continuation-token", "")).decode()  # opaque to the client
        objects, folders, more = self.contents.page(prefix, query.get("delimiter", ""), after, most)
        entries = [_entry(name, stored) for name, stored in objects]
        entries += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        if more:
            entries.append(f"<NextContinuationToken>{more.encode().hex()}</NextContinuationToken>")
        return _xml(
            f"<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{BUCKET}</Name>"
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(objects) + len(folders)}</KeyCount>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{''.join(entries)}</ListBucketResult>"
        )

    def _part_of_upload(self, name: str, body: bytes) -> Answer:
        if "uploads" in self.query:
            upload = uuid.uuid4().hex
            self.contents.parts[upload] = {}
            return _xml(
                f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        upload = self.query["uploadId"]
        if upload not in self.contents.parts:
            return _error(404, "NoSuchUpload")
        if self.command == "PUT":
            self.contents.parts[upload][self.query["partNumber"]] = body
            return Answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        if self.command == "DELETE":
            del self.contents.parts[upload]
            return Answer(204)
        return self._complete(name, upload, body.decode())

    def _complete(self, name: str, upload: str, listed: str) -> Answer:
        parts = self.contents.parts[upload]
        numbers = re.findall(r"<PartNumber>(\d+)</PartNumber>", listed)
        tags = re.findall(r'<ETag>"?(\w+)"?</ETag>', listed)
        if [hashlib.md5(parts.get(number, b"")).hexdigest() for number in numbers] != tags or not numbers:
            return _error(400, "InvalidPart")
        if any(len(parts[number]) < _SMALLEST_PART for number in numbers[:-1]):
            return _error(400, "EntityTooSmall")
        del self.contents.parts[upload]
        stored = self.contents.write(name, b"".join(parts[number] for number in numbers))
        return _xml(
            f"<CompleteMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key>"
            f"<ETag>{_headers(stored)['ETag']}</ETag></CompleteMultipartUploadResult>",
            {"x-goog-generation": str(stored.number)},
        )


def _headers(stored: Stored) -> dict[str, str]:
    return {"ETag": f'"{stored.md5}"', "x-goog-generation": str(stored.number), "x-goog-metageneration": "1"}


def _entry(name: str, stored: Stored) -> str:
    return (
        f"<Contents><Key>{escape(name)}</Key><Generation>{stored.number}</Generation><MetaGeneration>1</MetaGeneration>"
        f"<LastModified>{parsedate_to_datetime(stored.modified):%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f'<ETag>"{stored.md5}"</ETag><Size>{len(stored.content)}</Size></Contents>'
    )


def _error(status: int, code: str) -> Answer:
    return Answer(
        status,
        f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code>"
        f"<Message>{_MESSAGES[code]}</Message></Error>".encode(),
        {"Content-Type": "application/xml; charset=UTF-8"},
    )


def _xml(content: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(
        200,
        f"<?xml version='1.0' encoding='UTF-8'?>{content}".encode(),
        {"Content-Type": "application/xml; charset=UTF-8", **(headers or {})},
    )
