"""Keeps the work folder of a study in a bucket up to date while a command shows it, where its driver does not run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from study.run.bucket.reading import restore, segments_of, send_to_own
from study.run.output_folder import undriven
from study.run.report import REPORT
from study.tracking.sync import TrackingUnavailable
from study.watch.status_file import STATUS_FILE, RunState, status_in
from trainables.store.atomic import replacing
from trainables.store.bucket.client import ObjectStore, bucket_of
from trainables.store.bucket.folder import receive
from trainables.store.kept import parse_object

LOOK_S = 5.0  # between two looks at what the run says of itself: one request
RESULTS_S = 30.0  # between two looks for further results: a listing of the journal, and more where there are any


class Follower:
    """Brings a work folder up to date at each `look`. One thread uses it.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, output: Path, bucket: ObjectStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._output, self._bucket, self._clock = output, bucket, clock
        self._segments = segments_of(bucket, output)
        self._newest: str | None = None
        self._status, self._due_s = b"", clock()

    def look(self) -> None:
        """Bring results and then status up to date, where they changed and no driver on this machine does it.

        Raises:
            StorageUnavailable: the object store does not answer.
            TrackingUnavailable: the folder's MLflow database cannot be written.
        """
        status = self._bucket.get(STATUS_FILE)
        is_new = status is not None and status.content != self._status
        ended = is_new and status is not None and _says_end(status.content)
        if ended or self._clock() >= self._due_s:
            self._take_results()
        if is_new and status is not None:
            self._take_status(status.content, ended=ended)

    def _take_results(self) -> None:
        self._due_s = self._clock() + RESULTS_S
        if (newest := self._segments.newest()) == self._newest:
            return
        with undriven(self._output) as free:
            if free:
                restore(self._bucket, self._output, self._segments)
                send_to_own(self._output)
                self._newest = newest

    def _take_status(self, content: bytes, *, ended: bool) -> None:
        with undriven(self._output) as free:
            if not free:
                return
            if ended:
                receive(self._output / REPORT)  # before the status that says it is there
            with replacing(self._output / STATUS_FILE) as temporary:
                temporary.write_bytes(content)
        self._status = content


def _says_end(content: bytes) -> bool:
    with suppress(ValueError):
        status = status_in(parse_object(content))
        return status is not None and status.state is RunState.ENDED
    return False


@contextmanager
def following(output: Path, *, say: Callable[[str], None]) -> Iterator[None]:
    """Keep a work folder up to date from a thread during the block; does nothing for any other folder.

    What keeps it from that is said once, until it has passed, and tried again.
    """
    bucket = bucket_of(output)
    if bucket is None:
        yield
        return
    follower, closed = Follower(output, bucket), threading.Event()

    def follow() -> None:
        failing = False
        while not closed.is_set():
            try:
                follower.look()
                failing = False
            except (OSError, TrackingUnavailable) as error:
                if not failing:
                    say(f"{error}; trying again")
                failing = True
            closed.wait(LOOK_S)

    thread = threading.Thread(target=follow, name="following", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join(LOOK_S)  # a look that is under way may write to the folder
