"""What each job trains at the moment, recorded for the process that learns why a worker is gone.

A process that is killed for memory says nothing: not that it was memory, nor what it was training. So the leading worker
writes a file when a training starts, and removes it when the training ends or fails by itself. The file stays after a kill,
and after any other error: where another worker of the group is killed, the leader's collective operation fails.

Ray tells the reason of a kill to another process: the driver for a trial or a pre-training, the trial for the workers of its
group. Where that was memory, the process turns the file into a limit on micro-batches (`micro_batches`), and the job starts
again with half the rows. After any other loss the next training of the job replaces the file, and nothing gets smaller.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from trainables.hyperparameters import Diverged, OutOfMemory
from trainables.resources import Resources
from trainables.store.bucket.folder import shared_folder
from trainables.store.kept import KeptFileUnusable
from trainables.store.stage_store import ClaimLost
from trainables.training.micro_batches import record_limit

FOLDER = "attempts"


@dataclass(frozen=True)
class Attempt:
    """A training: its stage's memory key, the rows of its micro-batches, and the fewest that they can have."""

    stage: str
    rows: int
    fewest_rows: int


@dataclass(frozen=True)
class SmallerMicroBatches:
    """What a job is started again with."""

    stage: str
    rows: int
    before: int

    def __str__(self) -> str:
        return f"{self.stage} with micro-batches of {self.rows} rows instead of {self.before}"


@contextlib.contextmanager
def recorded_attempt(output: Path, job: str, attempt: Attempt) -> Iterator[None]:
    """Record the job's training for the time of the block; a job without a name records nothing.

    `Diverged`, `OutOfMemory` and `ClaimLost` are no kills and remove the record. Any other error may follow from one.
    """
    if not job:
        yield
        return
    attempts, name = shared_folder(output, FOLDER), f"{job}.json"
    attempts.write(name, json.dumps(asdict(attempt)))
    try:
        yield
    except (Diverged, OutOfMemory, ClaimLost):
        attempts.remove(name)
        raise
    attempts.remove(name)


def halve_after_kill(output: Path, resources: Resources, job: str) -> SmallerMicroBatches | None:
    """Record half the rows as the limit of the training that the job was killed in; called where the reason was memory.

    None where the job was not training, or where its micro-batches cannot be smaller.
    """
    attempts, name = shared_folder(output, FOLDER), f"{job}.json"
    try:
        content = attempts.read(name, ("stage", "rows", "fewest_rows"))
    except KeptFileUnusable:
        content = None
    attempts.remove(name)
    if content is None:
        return None
    attempt = Attempt(str(content["stage"]), int(content["rows"]), int(content["fewest_rows"]))
    if attempt.rows <= attempt.fewest_rows:
        return None
    half = attempt.rows // 2
    because = f"{job} was killed for memory with micro-batches of {attempt.rows} rows"
    record_limit(output, resources, attempt.stage, micro_batch=half, because=because)
    return SmallerMicroBatches(attempt.stage, half, attempt.rows)
