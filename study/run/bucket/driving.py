"""A study whose output folder is in a bucket: one driver at a time, whose journals and files are kept there as they grow.

The driver works in its work folder as in any output folder. A thread ships what changes to the bucket every `DELAY_S`, and the
end of the run ships the rest. After a kill, another head restores what was shipped; what was not is the end of the last trials,
whose stages are in the bucket, so that nothing is trained twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from study.errors import CannotRun, reason_of
from study.run.bucket.reading import segments_of
from study.run.report import REPORT
from study.tracking.folder_id import FolderIdDamaged, folder_id
from study.watch.status_file import STATUS_FILE
from trainables.store.bucket.client import ObjectStore, StorageUnavailable, bucket_of
from trainables.store.bucket.leases import Holder, Leases
from trainables.store.bucket.location import shown
from trainables.store.bucket.segments import OUTBOX, Segments, Superseded
from trainables.store.manifests import MANIFEST, parse_manifest
from trainables.store.removal import is_whole
from trainables.training.attempts import FOLDER as ATTEMPTS

DELAY_S = 2.0
DRIVER = "claims/driver.json"


class Shipping:
    """Ships a work folder to its bucket from a thread, until `close`: segments, the report, and what the run says of itself.

    Where the bucket does not answer, it is tried again and again. Where another driver has taken over, nothing is: `end` is
    called once.
    """

    def __init__(
        self,
        segments: Segments,
        bucket: ObjectStore,
        output: Path,
        *,
        say: Callable[[str], object] = lambda line: None,
        end: Callable[[], object] = lambda: None,
    ) -> None:
        self._segments, self._bucket, self._say, self._end = segments, bucket, say, end
        self._listeners = list[Callable[[], object]]()
        self._report, self._status_file = output / REPORT, output / STATUS_FILE
        self._of_report, self._status = _changed_ns(self._report), _content(self._status_file)  # an earlier run's
        self._one_at_a_time = threading.Lock()
        self._error: OSError | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipping", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises OSError if the bucket no longer gets what is written: another driver took over, or it does not answer."""
        if self._error is not None:
            raise self._error

    def ship(self) -> None:
        """Ship what is written by now, and confirm that this is the study's driver: before anything is removed because of it.

        Raises: as `check` does.
        """
        self.check()
        self._ship(confirm=True)

    keep = ship

    def kept_bytes(self) -> int:
        """How much of the outbox is in the bucket."""
        return self._segments.shipped_bytes(OUTBOX)

    def after_keeping(self, do: Callable[[], object]) -> None:
        """Call this, from whatever thread, after something was shipped."""
        self._listeners.append(do)

    def close(self) -> None:
        """Ship the rest, also where the bucket did not answer at last. Raises: as `check` does."""
        self._closed.set()
        self._thread.join()
        if self.superseded:
            self.check()
        self._ship(confirm=True)
        self._ship_shown()

    @property
    def superseded(self) -> bool:
        """Whether another driver has taken the study over."""
        return isinstance(self._error, Superseded)

    def _ship(self, *, confirm: bool = False) -> None:
        with self._one_at_a_time:
            self._segments.ship()
            if confirm:
                self._segments.confirm()
        for listener in self._listeners:
            listener()

    def _run(self) -> None:
        while not self._closed.wait(DELAY_S):
            try:
                self._ship()
                self._ship_shown()
            except Superseded as error:
                self._error = error
                self._end()
                return
            except Exception as error:  # none may end this thread
                if self._error is None:
                    self._say(f"the bucket does not take what the run writes ({reason_of(error)}); it is tried again")
                self._error = error if isinstance(error, OSError) else StorageUnavailable(repr(error), self._bucket.url)
            else:
                if self._error is not None:
                    self._say("the bucket takes what the run writes again")
                self._error = None

    def _ship_shown(self) -> None:
        """What people look at: the report, and then the status, which may say that the report is the last one."""
        status = _content(self._status_file)
        if (of_report := _changed_ns(self._report)) != self._of_report and of_report is not None:
            self._bucket.upload(self._report, REPORT)
        self._of_report = of_report
        if status != self._status and status is not None:
            self._bucket.put(STATUS_FILE, status)
        self._status = status


@contextmanager
def kept_in_bucket(
    output: Path,
    *,
    say: Callable[[str], object] = lambda line: None,
    end: Callable[[], object] = lambda: None,
) -> Iterator[Shipping | None]:
    """Restore the study's work folder and keep the bucket up to date, as its only driver; None for any other output folder.

    `say` gets a line where the bucket stops or starts to answer. `end` is called, from another thread, once another driver has
    taken over, to end the block.

    Raises:
        CannotRun: another driver runs the study.
        Superseded: another driver took it over meanwhile.
        StorageUnavailable: the object store does not answer, at the start or for so long that what it lacks could be lost.
    """
    bucket = bucket_of(output)
    if bucket is None:
        yield None
        return
    lease = Leases(bucket).take(DRIVER)
    if isinstance(lease, Holder):
        raise CannotRun(
            f"--output {shown(output)}: another run is using it, {lease}; wait for it or choose another prefix"
        )
    with lease:
        segments = segments_of(bucket, output, lease)
        segments.take_over()
        _remove_leftovers(bucket)
        shipping = Shipping(segments, bucket, output, say=say, end=end)
        try:
            yield shipping
        except BaseException:
            _close_after_error(shipping)
            if shipping.superseded:
                shipping.check()
            raise
        shipping.close()


def keep_folder_id(output: Path, shipping: Shipping) -> None:
    """Ship a new study's id before an MLflow server is told of it: without it a successor could not prove whose runs they are.

    Raises: as `Shipping.check` does.
    """
    if not (output / OUTBOX).exists():
        with suppress(FolderIdDamaged):  # said when the experiment is opened
            folder_id(output, None)
        shipping.ship()


def _remove_leftovers(bucket: ObjectStore) -> None:
    """Notes of what a run that ended trained, and checkpoints that finished stages could not remove."""
    bucket.delete(bucket.names(f"{ATTEMPTS}/"))
    for stage in bucket.folders("checkpoints/"):
        manifest = bucket.get(f"stages/{stage}/{MANIFEST}")
        if manifest is not None and is_whole(parse_manifest(manifest.content)):
            bucket.delete(bucket.names(f"checkpoints/{stage}/"))


def _changed_ns(path: Path) -> int | None:
    """When a file was last changed; None if there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _close_after_error(shipping: Shipping) -> None:
    try:
        shipping.close()
    except OSError:
        return  # the run ends with an error that came first
