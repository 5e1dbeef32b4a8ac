"""Reads a study in a bucket on any machine: its work folder is brought up to date there, with MLflow's database."""

from __future__ import annotations

from pathlib import Path

from study.run.output_folder import undriven
from study.tracking.outbox import FOLDER, DeliveryOffset
from study.tracking.sync import destination_of, send
from study.tracking.tracker import default_uri
from trainables.store.bucket.client import ObjectStore, StorageUnavailable, bucket_of
from trainables.store.bucket.leases import Lease
from trainables.store.bucket.location import is_url, work_folder
from trainables.store.bucket.segments import Segments
from trainables.store.inside import NameRefused, path_inside

FAILURES = "failures"
READS = 3  # of segments that their driver compacts meanwhile


def segments_of(bucket: ObjectStore, output: Path, lease: Lease | None = None) -> Segments:
    """The segments of a work folder. How far its own MLflow database has received the outbox is no business of theirs."""
    return Segments(bucket, output, lease, apart=frozenset({own_receipt(output)}))


def own_receipt(output: Path) -> str:
    """Where in an output folder is noted how far its own MLflow database has received the outbox."""
    return f"{FOLDER}/{DeliveryOffset.file_name(destination_of(default_uri(output), output))}"


def readable(source: str) -> str:
    """The folder to read a study from whose source is a bucket: its work folder, with MLflow's database; else the source.

    Raises:
        ValueError: the URL is no prefix in a bucket.
        StorageUnavailable: the object store does not answer.
        TrackingUnavailable: there is no study in it, or its database cannot be written here.
    """
    if not is_url(source):
        return source
    output = work_folder(source)
    if refresh(output):
        send_to_own(output)
    return str(output)


def send_to_own(output: Path) -> None:
    """Bring the MLflow database in the folder up to the outbox. Raises TrackingUnavailable."""
    send(output, default_uri(output), say=lambda line: None)


def refresh(output: Path) -> bool:
    """Bring the work folder of a study in a bucket up to date, for a command that reads it, and return whether it did.

    It does not for any other folder, nor where the study's driver runs on this machine: then the folder is up to date.

    Raises:
        StorageUnavailable: the object store does not answer.
    """
    bucket = bucket_of(output)
    if bucket is None:
        return False
    with undriven(output) as free:
        if free:
            restore(bucket, output, segments_of(bucket, output))
        return free


def restore(bucket: ObjectStore, output: Path, segments: Segments) -> None:
    """Bring the folder up to date, in which no driver runs."""
    for attempt in range(1, READS + 1):
        try:
            segments.restore()
            break
        except StorageUnavailable:
            if attempt == READS:
                raise
    (output / FAILURES).mkdir(exist_ok=True)
    for name in bucket.names(f"{FAILURES}/"):  # which nodes record in the bucket
        try:
            target = path_inside(output / FAILURES, name.removeprefix(f"{FAILURES}/"))
        except NameRefused as error:
            raise StorageUnavailable(f"refused: {error}", bucket.url) from error
        if (present := bucket.get(name)) is not None:
            target.write_bytes(present.content)
