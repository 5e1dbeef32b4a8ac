"""Opens the stage store of an output folder: one in the folder itself, or one in the bucket whose work folder it is."""

from __future__ import annotations

from pathlib import Path

from trainables.store.bucket.client import bucket_of
from trainables.store.bucket.stages import BucketStageStore
from trainables.store.stage_store import StageStore


def open_store(output: Path) -> StageStore:
    """The stage store of the output folder.

    Raises:
        StorageUnavailable: it is in a bucket, and this process has no means to reach it.
    """
    bucket = bucket_of(output)
    return StageStore(output) if bucket is None else BucketStageStore(output, bucket)
